"""The two rules that stop a study before its last trial: failures in a row, and --patience."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.search.scores import Scores
from cluster.study.records import EpochRecord, TrialRecord
from contract.messages import EpochDecision, Outcome, Reason

FAILURE_STREAK = 5
"""Number of failed trials in a row that stops the study, because the next one would fail too.

An accelerator's fault counts once its trial is given up after several attempts in new processes: five such
trials in a row mean that the device is broken.
"""


class FailureStreak:
    """Counts trials that failed one after the other."""

    def __init__(self) -> None:
        self._num = 0

    def note(self, outcome: Outcome, reason: Reason | None, last_line: str | None) -> str | None:
        """Count the end of a trial; returns the reason to stop the study, or None."""
        recurs = outcome is Outcome.FAILED and reason is not None and reason.is_likely_to_recur
        self._num = self._num + 1 if recurs else 0
        if self._num < FAILURE_STREAK:
            return None
        return f"the last {self._num} trials failed, so would the next: {reason}: {last_line or ''}"


class GainWatch:
    """Counts the trials that have ended since the study's last gain, for --patience.

    A gain makes the best kept value of the study better than it ever was; a tie is none. The count is rebuilt
    from the records, so that a killed and continued run stops where it would have.
    """

    def __init__(self, patience: int | None, history: Iterable[tuple[bool, bool]] = ()) -> None:
        """`history` holds (was it a gain, did its trial end with it) of every epoch, in order of arrival."""
        self._patience = patience
        self._ended_since = 0
        for gained, ended in history:
            self.note(gained=gained, ended=ended)

    def note(self, *, gained: bool, ended: bool) -> None:
        """Count an epoch."""
        if gained:
            self._ended_since = 0
        elif ended:
            self._ended_since += 1

    @property
    def is_over(self) -> bool:
        """Whether --patience is used up."""
        return self._patience is not None and self._ended_since >= self._patience


def replay(history: Iterable[TrialRecord], scores: Scores) -> list[tuple[bool, bool]]:
    """Add the recorded epochs to the scores in order of arrival; returns the history for a GainWatch."""
    rows = sorted((row for record in history for row in record.epochs.values()), key=_arrival)
    seen = []
    for row in rows:
        is_complete = row.decision is EpochDecision.COMPLETE
        gained = row.decision is not EpochDecision.FAILED and scores.note(
            row.trial, row.epoch, row.metrics, is_end=is_complete, predicted=row.predicted
        )
        seen.append((gained, row.decision.ends_trial))
    return seen


def _arrival(row: EpochRecord) -> float:
    return row.arrival
