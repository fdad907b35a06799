"""What passes between the search and a worker: leases one way, reports and decisions the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DISK_FULL = "disk full"
"""The one reason of a LeaseError that stops the study: every other trial would end the same way."""


@dataclass(frozen=True, kw_only=True)
class LeasedTrial:
    """One study trial, handed to a worker for the `attempt`-th time."""

    trial: int
    attempt: int
    config: Mapping[str, Any]
    done_epochs: int
    """Epochs the database already has."""
    checkpoint_epochs: tuple[int, ...] = ()
    """Where the scheduler may pause it: the worker leaves a checkpoint there."""
    until_epoch: int | None = None
    """Of a trial that may share its lease: where the lease ends for it, with a checkpoint unless it is over.

    A worker cannot be told to drop one trial of several, so none of them runs past where it may be stopped.
    """

    def as_config(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "attempt": self.attempt,
            "config": dict(self.config),
            "done_epochs": self.done_epochs,
            "checkpoint_epochs": list(self.checkpoint_epochs),
            "until_epoch": self.until_epoch,
        }


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The study trials of one Ray trial."""

    trials: tuple[LeasedTrial, ...]

    def as_config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker gets as its Tune config."""
        return {"leases": [trial.as_config() for trial in self.trials], "settings": dict(settings)}


@dataclass(frozen=True, kw_only=True)
class LeaseError:
    """Why a lease ended without its trials' outcome."""

    message: str
    transient: bool
    """The worker, its node, its accelerator or its storage failed, and the trial itself may be fine: it is
    tried again."""
    reason: str = "bug"
    """The trial's reason if it is given up: bug | out of memory | data | accelerator; or DISK_FULL, and it is
    not given up."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One epoch of one trial, as the worker saw it."""

    trial: int
    attempt: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    outcome: str | None = None
    """None while it goes on, else complete | failed | infeasible."""
    reason: str | None = None
    traceback: str | None = None
    excess: float = 0.0
    """Of an infeasible trial: how far beyond the limit, as a share of it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a trial after a report."""

    trial: int
    epoch: int
    action: str
    """continue | pause | stop | ignored (the report of an older attempt, or of a trial that had ended)"""
    outcome: str | None = None
    """complete | pruned | failed | infeasible, when the trial ended."""
    reason: str | None = None
    detail: str | None = None
    """Last line of a failed trial's traceback."""
