"""Searchers, found by file name: each makes the Optuna sampler that proposes the next configuration."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class MakeSampler(Protocol):
    """Builds a fresh sampler; all that it knows comes from the study it is asked about."""

    def __call__(self, *, seed: int, num_startup: int) -> BaseSampler: ...


def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_searcher(name: str) -> MakeSampler:
    return cast(MakeSampler, importlib.import_module(f"{__name__}.{name}").make_sampler)
