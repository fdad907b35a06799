"""Numbers and configurations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.comparison import is_share

WORDS = {"backbone": "{}", "regime": "{}", "policy": "augmentation {}", "unfreeze_depth": "unfreeze depth {}"}


def show_value(metric: str, value: float) -> str:
    """Shares in percent, the rest with four digits."""
    return f"{100 * value:.1f}%" if is_share(metric) else f"{value:.4f}"


def show_seconds(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is readable."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_setting(name: str, value: Any) -> str:
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(shown)


def show_config(row: Mapping[str, Any], searched: Sequence[str]) -> str:
    """Backbone and regime, then what was searched."""
    names = dict.fromkeys(("backbone", "regime", *searched[:6]))
    return ", ".join(show_setting(name, row[name]) for name in names if row.get(name) is not None)


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
