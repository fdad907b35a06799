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
    """A pure function of the records, so that a resumed study decides as the first run would have."""

    def __call__(self, *, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:
        """Decide after an epoch; a paused trial waits until `promote` names it."""


class Promote(Protocol):
    """Chooses the paused trial that goes on, if any; a pure function of the records too."""

    def __call__(
        self, *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
    ) -> int | None:
        """Decide whenever a slot is free.

        Args:
            paused: trial -> epoch at which it waits.
            running: trial -> epochs it has.
            is_last: no trial will be proposed any more.
        """


class Rungs(Protocol):
    """Lists the epochs after which a trial of such a schedule may be stopped or paused; None means any.

    Where trials may be paused, their workers leave a checkpoint there; trials that share a lease go from one
    to the next.
    """

    def __call__(self, shares: Sequence[float]) -> tuple[int, ...] | None: ...


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A scheduler's file, loaded; only `decide` must be there."""

    name: str
    decide: Decide
    promote: Promote
    rungs: Rungs

    @property
    def pauses(self) -> bool:
        return self.promote is not _promote_nobody


def names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_scheduler(name: str) -> Scheduler:
    module = importlib.import_module(f"{__name__}.{name}")
    promote, rungs = getattr(module, "promote", _promote_nobody), getattr(module, "rungs", _any_epoch)
    return Scheduler(name=name, decide=module.decide, promote=promote, rungs=rungs)


def _promote_nobody(
    *,
    paused: Mapping[int, int],  # noqa: ARG001
    running: Mapping[int, int],  # noqa: ARG001
    curves: Curves,  # noqa: ARG001
    is_last: bool,  # noqa: ARG001
) -> int | None:
    return None


def _any_epoch(shares: Sequence[float]) -> tuple[int, ...] | None:  # noqa: ARG001
    return None
