"""Schedulers, found by file name: each decides after an epoch whether a trial goes on, waits or ends."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.schedulers._rungs import Curves as Curves
from cluster.schedulers._rungs import Shares as Shares
from cluster.schedulers._rungs import even_shares as even_shares
from contract.messages import SchedulerAction


class Decide(Protocol):
    """Decides from the records only, so that a resumed study decides as the first run would have."""

    def __call__(self, *, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:
        """Decide after an epoch; a paused trial waits until `promote` names it."""


class Promote(Protocol):
    """Chooses the paused trial that goes on, if any; from the records only, too."""

    def __call__(
        self, *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
    ) -> int | None:
        """Choose a trial for a free slot.

        Args:
            paused: trial -> epoch at which it waits.
            running: trial -> epochs it has.
            is_last: no trial will be proposed any more.
        """


class Rungs(Protocol):
    """Lists the epochs after which a trial with these shares may be stopped or paused; None means any.

    Workers of trials that may be paused leave a checkpoint at each. Trials that share a lease run from one
    rung to the next.
    """

    def __call__(self, shares: Sequence[float]) -> tuple[int, ...] | None: ...


class Explain(Protocol):
    """Says in a few words why a trial was stopped after an epoch, or why it was not promoted from it."""

    def __call__(self, *, trial: int, epoch: int, curves: Curves) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A scheduler's file, loaded: `decide` is required, the others have defaults."""

    name: str
    decide: Decide
    explain: Explain
    promote: Promote
    rungs: Rungs

    @property
    def pauses(self) -> bool:
        """Whether its trials may be paused, so that workers must leave checkpoints at the rungs."""
        return self.promote is not _promote_none


def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_scheduler(name: str) -> Scheduler:
    module = importlib.import_module(f"{__name__}.{name}")
    return Scheduler(
        name=name,
        decide=module.decide,
        explain=getattr(module, "explain", _name_epoch),
        promote=getattr(module, "promote", _promote_none),
        rungs=getattr(module, "rungs", _any_epoch),
    )


def _promote_none(
    *,
    paused: Mapping[int, int],  # noqa: ARG001
    running: Mapping[int, int],  # noqa: ARG001
    curves: Curves,  # noqa: ARG001
    is_last: bool,  # noqa: ARG001
) -> int | None:
    return None


def _any_epoch(shares: Sequence[float]) -> tuple[int, ...] | None:  # noqa: ARG001
    return None


def _name_epoch(*, trial: int, epoch: int, curves: Curves) -> str:  # noqa: ARG001
    return f"stopped after epoch {epoch}"
