"""The two rules that stop a study before its last trial: it only fails, or it no longer gains."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.search.scores import Scores
from cluster.study.records import EpochRecord, TrialRecord
from contract.messages import EpochDecision, Outcome, Reason

FAILURE_STREAK = 5
"""This many failed trials in a row stop the study: the next would fail too.

An accelerator's fault counts once its trial is given up, after several processes have met it: five such
trials with no other end between them mean that the device is broken.
"""


class FailureStreak:
    """Trials that failed one after the other."""

    def __init__(self) -> None:
        self._num = 0

    def note(self, outcome: Outcome, reason: Reason | None, last_line: str | None) -> str | None:
        """Take the end of a trial in; the reason to stop, if there is one now."""
        recurs = outcome is Outcome.FAILED and reason is not None and reason.is_likely_to_recur
        self._num = self._num + 1 if recurs else 0
        if self._num < FAILURE_STREAK:
            return None
        return f"the last {self._num} trials failed, so would the next: {reason}: {last_line or ''}"


class GainWatch:
    """The rule behind --patience: so many trials in a row have ended without a new best value of the study.

    A gain is a value better than all before: a tie is none. The count is rebuilt from the records, so that a
    killed and continued run stops where it would have.
    """

    def __init__(self, patience: int | None, history: Iterable[tuple[bool, bool]] = ()) -> None:
        """`history`: (is it the study's best so far, did its trial end with it) of every epoch, in order."""
        self._patience = patience
        self._ended_since = 0
        for gained, ended in history:
            self.note(gained=gained, ended=ended)

    def note(self, *, gained: bool, ended: bool) -> None:
        """Take an epoch in."""
        if gained:
            self._ended_since = 0
        elif ended:
            self._ended_since += 1

    @property
    def is_over(self) -> bool:
        return self._patience is not None and self._ended_since >= self._patience


def replay(history: Iterable[TrialRecord], scores: Scores) -> list[tuple[bool, bool]]:
    """Take the recorded epochs into the scores, in the order they came; what a GainWatch asks of each."""
    rows = sorted((row for record in history for row in record.epochs.values()), key=_arrival)
    seen = []
    for row in rows:
        is_complete = row.decision is EpochDecision.COMPLETE
        gained = row.decision is not EpochDecision.FAILED and scores.note(
            row.trial, row.epoch, row.metrics, is_end=is_complete
        )
        seen.append((gained, row.decision.ends_trial))
    return seen


def _arrival(row: EpochRecord) -> float:
    return row.arrival
