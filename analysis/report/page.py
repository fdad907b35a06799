"""The report page: its shell with Plotly, its figures, and numbers and configurations in words."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contract.html import Section, data_script, escape
from contract.html import render_page as render_shell
from contract.metrics import is_share

HERE = Path(__file__).parent

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'; font-src data:"
)
"""Content security policy: no requests; Plotly needs unsafe-eval to compile WebGL shaders."""

WORDS = {"backbone": "{}", "regime": "{}", "policy": "augmentation {}", "unfreeze_depth": "unfreeze depth {}"}
"""Wording of settings that do not read well as their name followed by their value."""


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Assemble the document, with Plotly (4.8 MB) if a section has a figure."""
    has_figures = any('class="plot"' in section.body for section in sections)
    code = (HERE / "report.js").read_text(encoding="utf-8")
    style = (HERE / "report.css").read_text(encoding="utf-8")
    scripts = [*([_plotly_source()] if has_figures else []), code]
    return render_shell(title, sections, style=style, scripts=scripts, policy=POLICY)


def _plotly_source() -> str:
    spec = importlib.util.find_spec("plotly")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    return (folder / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def figure(
    spec: Mapping[str, Any], conclusion: str, *, title: str, height: int = 420, wide: bool = False
) -> str:
    """Return a Plotly figure, drawn when it is scrolled into view, above a caption that says what it shows.

    Args:
        spec: plotly's data and layout, as JSON has them.
        wide: keep its width on a phone, where it scrolls sideways.
    """
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind}><div class="plot" role="img" aria-label="{escape(title)}" '
        f'style="height:{height}px"></div>{data_script(spec, kind="spec")}'
        f"<figcaption>{escape(conclusion)}</figcaption></figure>"
    )


def show_value(metric: str, value: float) -> str:
    """Format a metric's value: shares in percent, others with four decimals."""
    return f"{100 * value:.1f}%" if is_share(metric) else f"{value:.4f}"


def show_seconds(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours, by its size."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_setting(name: str, value: Any) -> str:
    """Describe a hyperparameter and its value in words."""
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(shown)


def show_config(row: Mapping[str, Any], searched: Sequence[str]) -> str:
    """Describe a trial by backbone, regime and up to six of the hyperparameters in `searched`."""
    names = dict.fromkeys(("backbone", "regime", *searched[:6]))
    return ", ".join(show_setting(name, row[name]) for name in names if row.get(name) is not None)


def share(part: float, whole: float) -> str:
    """Format a share in percent without decimals; a dash if the whole is 0."""
    return f"{100 * part / whole:.0f}%" if whole else "–"
