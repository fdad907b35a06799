"""TrialStatus: what the search knows of a trial between its proposal and its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster.leases import LeasedTrial
from cluster.records import TrialRecord


@dataclass(kw_only=True)
class TrialStatus:
    """Kept in step with the trial's attributes in the database."""

    number: int
    config: dict[str, Any]
    attempt: int = 0
    crashes: int = 0
    decisions: dict[int, str] = field(default_factory=dict)
    """Epoch -> what was decided after it."""
    seconds: float = 0.0
    """Of earlier attempts."""
    started: float = 0.0
    """When this attempt began, unix time."""
    outcome: str | None = None
    """complete | pruned | failed | infeasible; None: it goes on."""
    worker: str | None = None
    paused: bool = False
    """It waits at a rung; its lease has ended."""

    def lease(self, *, now: float, checkpoint_epochs: tuple[int, ...] = ()) -> LeasedTrial:
        """Begin the next attempt."""
        self.attempt += 1
        self.started, self.paused = now, False
        return LeasedTrial(
            trial=self.number,
            attempt=self.attempt,
            config=self.config,
            done_epochs=self.num_epochs,
            checkpoint_epochs=checkpoint_epochs,
        )

    def note_epoch(self, epoch: int, decision: str) -> None:
        if epoch > self.num_epochs:
            self.crashes = 0  # it came further: what killed its worker before was not the trial
        self.decisions[epoch] = decision

    @property
    def is_active(self) -> bool:
        """It runs, or would if it had a slot."""
        return self.outcome is None and not self.paused

    @property
    def num_epochs(self) -> int:
        return max(self.decisions, default=0)

    def end_attempt(self, *, now: float) -> None:
        self.seconds += max(0.0, now - self.started)

    def attempt_attrs(self) -> dict[str, Any]:
        """What the database must know before the attempt begins: older ones are fenced by it."""
        attrs = {"attempts": self.attempt, "attempt_started": self.started}
        return attrs | {"seconds": round(self.seconds, 3), "crashes": self.crashes}


def rebuild_status(record: TrialRecord) -> TrialStatus:
    """The status as the run before left it."""
    attrs = record.attrs
    newest = record.epochs[max(record.epochs)] if record.epochs else None
    status = TrialStatus(
        number=record.number,
        config=attrs["config"],
        attempt=attrs["attempts"],
        crashes=attrs.get("crashes", 0),
        decisions={epoch: row.decision for epoch, row in record.epochs.items()},
        seconds=attrs.get("seconds", 0.0),
        started=attrs.get("attempt_started", 0.0),
        outcome=attrs.get("outcome"),
        worker=attrs.get("worker"),
        # Handed out again since, it has a newer attempt than the epoch it was paused at.
        paused=newest is not None and newest.decision == "pause" and newest.attempt == attrs["attempts"],
    )
    if status.is_active:  # the attempt that was cut off counts up to its last sign of life
        arrivals = (row.arrival for row in record.epochs.values())
        status.end_attempt(now=max(arrivals, default=status.started))
    return status
