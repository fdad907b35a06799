"""TrialStatus: what the search knows about one trial; rebuilt from the database when a study goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.study.records import TrialRecord
from contract.messages import EpochDecision, LeasedTrial, Outcome


@dataclass(kw_only=True)
class TrialStatus:
    """The state of one trial; its attributes in the database say the same."""

    number: int
    config: dict[str, Any]
    is_recipe: bool = False
    """It runs a published recipe, which is never stopped or paused early."""
    attempt: int = 0
    """Number of times that it was handed out."""
    crashes: int = 0
    """Lost workers since its last new epoch."""
    decisions: dict[int, EpochDecision] = field(default_factory=dict)
    """What was decided after each epoch."""
    arrivals: dict[int, float] = field(default_factory=dict)
    """Unix time at which each epoch's report first arrived."""
    seconds: float = 0.0
    """Worker time of this and earlier attempts, up to `charged`."""
    started: float = 0.0
    """Unix time at which this attempt began."""
    charged: float = 0.0
    """Unix time up to which `seconds` is accounted for."""
    lease_number: int | None = None
    """Number of its last lease if that could be shared with other trials, else None."""
    until_epoch: int | None = None
    """The epoch at which that lease ends for it; None means at the end of the trial."""
    outcome: Outcome | None = None
    """None while the trial has not ended."""
    worker: str | None = None
    """Where it runs or last ran, as results show it."""
    paused: bool = False
    """It waits at a rung, and its lease has ended."""

    def lease(
        self,
        *,
        now: float,
        checkpoint_epochs: tuple[int, ...] = (),
        judged_epochs: tuple[int, ...] = (),
    ) -> LeasedTrial:
        """Begin the next attempt; `now` is unix time."""
        self.attempt += 1
        self.started = self.charged = now
        self.paused = False
        shared_until = self.until_epoch or int(self.config["max_epochs"])
        return LeasedTrial(
            trial=self.number,
            attempt=self.attempt,
            config=self.config,
            done_epochs=self.num_epochs,
            checkpoint_epochs=checkpoint_epochs,
            judged_epochs=judged_epochs,
            until_epoch=None if self.lease_number is None else shared_until,
        )

    def note_epoch(self, epoch: int, decision: EpochDecision, *, arrival: float) -> float:
        """Add an epoch; returns the unix time of its first arrival, which a replayed epoch keeps."""
        if epoch > self.num_epochs:
            self.crashes = 0  # it came further: what killed its worker before was not the trial
        self.decisions[epoch] = decision
        return self.arrivals.setdefault(epoch, arrival)

    @property
    def is_active(self) -> bool:
        """It runs or waits for a slot: it has neither ended nor paused at a rung."""
        return self.outcome is None and not self.paused

    @property
    def num_epochs(self) -> int:
        return max(self.decisions, default=0)

    @property
    def is_cut_off(self) -> bool:
        """Its worker was lost before the end of a lease that could be shared."""
        return self.lease_number is not None and not self.is_at_lease_end

    @property
    def is_at_lease_end(self) -> bool:
        """It has come as far as its shared lease goes."""
        return self.until_epoch is not None and self.num_epochs >= self.until_epoch

    @property
    def seconds_to_end(self) -> float:
        """Worker time that its remaining epochs take, if they take what those before took; 0 before any."""
        left = int(self.config["max_epochs"]) - self.num_epochs
        return self.seconds / self.num_epochs * left if self.num_epochs else 0.0

    def charge(self, *, now: float, sharers: int = 1) -> None:
        """Add the time since the last charge, divided by the number of trials that shared the worker."""
        self.seconds += max(0.0, now - self.charged) / sharers
        self.charged = now

    def attempt_attrs(self) -> dict[str, Any]:
        """Attributes to write before the attempt begins, because they fence off older attempts."""
        attrs = {"attempts": self.attempt, "attempt_started": self.started}
        attrs |= {"seconds": round(self.seconds, 3), "crashes": self.crashes}
        shared = {"lease": self.lease_number, "until_epoch": self.until_epoch}
        return attrs | (shared if self.lease_number is not None else {})


def charge_together(trials: Iterable[TrialStatus], *, now: float) -> None:
    """Divide the time since the last charge among the trials that still run on one worker."""
    running = [trial for trial in trials if not trial.is_at_lease_end]
    for trial in running:
        trial.charge(now=now, sharers=len(running))


def rebuild_statuses(history: Iterable[TrialRecord]) -> dict[int, TrialStatus]:
    """All trials as the run before left them, by number."""
    history = list(history)
    sharers = Counter(record.attrs.get("lease") for record in history)
    sharers[None] = 1
    return {record.number: _rebuild(record, sharers=sharers[record.attrs.get("lease")]) for record in history}


def _rebuild(record: TrialRecord, *, sharers: int) -> TrialStatus:
    attrs = record.attrs
    newest = record.epochs[max(record.epochs)] if record.epochs else None
    status = TrialStatus(
        number=record.number,
        config=attrs["config"],
        is_recipe=attrs.get("is_recipe", False),
        attempt=attrs["attempts"],
        crashes=attrs.get("crashes", 0),
        decisions={epoch: row.decision for epoch, row in record.epochs.items()},
        arrivals={epoch: row.arrival for epoch, row in record.epochs.items()},
        seconds=attrs.get("seconds", 0.0),
        started=attrs.get("attempt_started", 0.0),
        charged=attrs.get("attempt_started", 0.0),
        lease_number=attrs.get("lease"),
        until_epoch=attrs.get("until_epoch"),
        outcome=Outcome(attrs["outcome"]) if "outcome" in attrs else None,
        worker=attrs.get("worker"),
        # Handed out again since, it has a newer attempt than the epoch it was paused at.
        paused=newest is not None
        and newest.decision is EpochDecision.PAUSE
        and newest.attempt == attrs["attempts"],
    )
    if status.is_active:  # the attempt that was cut off counts up to its last sign of life
        arrivals = (row.arrival for row in record.epochs.values())
        status.charge(now=max(arrivals, default=status.started), sharers=sharers)
    return status
