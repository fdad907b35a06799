"""Regimes, found by file name: which parameters train, and when."""

from __future__ import annotations

import importlib
import pkgutil

from trainables.training.regimes._base import BaseRegime, Phase

__all__ = ["BaseRegime", "Phase", "load_regime", "names"]


def names() -> list[str]:
    """List all regimes in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")


def load_regime(name: str) -> BaseRegime:
    """The regime in the file of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(f"regime must be one of {', '.join(names())}, got {name!r}")
    regime: BaseRegime = importlib.import_module(f"{__name__}.{name}").Regime()
    return regime
