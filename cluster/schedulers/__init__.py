"""Schedulers, found by file name: each decides after an epoch whether a trial goes on."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Literal, Protocol, cast

Action = Literal["continue", "stop"]
Curves = Mapping[int, Mapping[int, float]]
"""Trial number -> epoch -> score, where higher is better; what is recorded so far, all trials."""


class Decide(Protocol):
    """A pure function of the records, so that a resumed study decides as the first run would have."""

    def __call__(self, *, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action: ...


def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_scheduler(name: str) -> Decide:
    return cast(Decide, importlib.import_module(f"{__name__}.{name}").decide)
