"""Following a study while it runs: what was recorded since the last look."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.reading import Row, StudyInfo, connect, read_epochs_since, read_states, read_trial_row
from contract.messages import State
from contract.metrics import is_better

OVERLAP_SECONDS = 120.0
"""Seconds that each look overlaps the last: a transaction may commit after the arrival it records."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One recorded epoch of a trial."""

    epoch: int
    arrival: float
    """Unix time at which the epoch was recorded."""

    metrics: dict[str, float]
    is_best: bool
    """True if the epoch is better than all earlier ones of its trial."""


@dataclass(frozen=True, kw_only=True)
class TrialChange:
    """A trial that is new, has new epochs, or has ended."""

    row: Row
    """The trial's row, without its metrics."""

    is_ended: bool
    best: float | None
    """Best value so far of the study's metric."""

    epochs: list[EpochRecord]
    """Epochs that MLflow lacks."""


class StudyFollower:
    """Reads a study database again and again, each time only what was not confirmed before."""

    def __init__(self, study: StudyInfo) -> None:
        self.study = study
        self._values: dict[int, dict[int, float]] = {}
        self._confirmed_arrival = 0.0
        self._read_arrival = 0.0

    def read_changes(self, *, written_epochs: dict[int, int], closed: set[int]) -> list[TrialChange]:
        """Changes in the order of trial numbers.

        Args:
            written_epochs: newest epoch of each trial that MLflow has.
            closed: trials whose end MLflow has.
        """
        with connect(self.study) as (connection, study_id):
            # States first: an end seen here has all its epochs in the database already.
            states = read_states(connection, study_id)
            since = self._confirmed_arrival - OVERLAP_SECONDS
            records = read_epochs_since(connection, study_id, arrival=since)
            new = self._sort_by_trial(records, written_epochs)
            changes = []
            for trial, state in sorted(states.items()):
                is_ended = state.has_ended
                is_new = trial not in written_epochs and state is not State.WAITING
                if trial in closed or not (is_new or is_ended or trial in new):
                    continue
                row = read_trial_row(connection, study_id, study=self.study, trial=trial)
                best = self.best_value(trial)
                changes.append(TrialChange(row=row, is_ended=is_ended, best=best, epochs=new.get(trial, [])))
        return changes

    def confirm(self) -> None:
        """Mark everything read so far as written, so that it is not read again."""
        self._confirmed_arrival = self._read_arrival

    def best_value(self, trial: int) -> float | None:
        """Best value so far of the study's metric; None before the first finite one."""
        return self._best_of(self._values.get(trial, {}).values())

    def _best_of(self, values: Iterable[float]) -> float | None:
        return max(values, default=None) if self.study.maximize else min(values, default=None)

    def _sort_by_trial(
        self, records: list[tuple[int, int, float, dict[str, float]]], written_epochs: dict[int, int]
    ) -> dict[int, list[EpochRecord]]:
        new: dict[int, list[EpochRecord]] = {}
        for trial, epoch, arrival, metrics in records:
            self._read_arrival = max(self._read_arrival, arrival)
            is_best = self._is_best(trial, epoch, metrics.get(self.study.metric))
            if epoch > written_epochs.get(trial, 0):
                record = EpochRecord(epoch=epoch, arrival=arrival, metrics=metrics, is_best=is_best)
                new.setdefault(trial, []).append(record)
        return new

    def _is_best(self, trial: int, epoch: int, value: float | None) -> bool:
        if value is None or not math.isfinite(value):
            return False
        values = self._values.setdefault(trial, {})
        values[epoch] = value
        earlier = self._best_of(other for number, other in values.items() if number < epoch)
        return is_better(value, earlier, maximize=self.study.maximize)
