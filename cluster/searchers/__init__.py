"""Searchers, found by file name: each makes the Optuna sampler that proposes the next configuration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a frozen head measured on cached features before anything was unfrozen."""

    config: Mapping[str, Any]
    """Hyperparameters of the head by name; those that a frozen head has no use for are left out."""

    score: float
    """The study's first metric after the last epoch, negated if it is minimized: higher is better."""

    loss: float
    """Validation loss after the last epoch; NaN where it was not reported."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a sampler's random choices are derived from."""

    seed: int
    """This proposal's seed, drawn from the study's seed and the index."""

    study_seed: int
    index: int
    """Number of trials proposed before, without recipes; a repeated draw adds a large stride."""

    num_startup: int
    """Number of trials that a model needs before it is used."""

    widths: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of a step away from a known configuration, as a share of a hyperparameter's range;
    those that the space does not state are left to the searcher."""

    probes: Sequence[Probe] = ()
    """The study's probes that have a result, by number; all of them are over before the first proposal."""


class MakeSampler(Protocol):
    """Builds a fresh sampler for one proposal; all else it knows comes from the study."""

    def __call__(self, draw: Draw) -> BaseSampler: ...


def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_searcher(name: str) -> MakeSampler:
    return cast(MakeSampler, importlib.import_module(f"{__name__}.{name}").make_sampler)
