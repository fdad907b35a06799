"""Following a study while it runs: what was recorded since the last look."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.reading import (
    Row,
    StudyInfo,
    connect,
    read_epochs_since,
    read_kept_rule,
    read_states,
    read_trial_row,
)
from contract.messages import State
from contract.metrics import epoch_merit

OVERLAP_SECONDS = 120.0
"""Seconds that each look overlaps the last: a transaction may commit after the arrival it records."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One recorded epoch of a trial."""

    epoch: int
    arrival: float
    """Unix time at which the epoch was recorded."""

    metrics: dict[str, float]
    is_kept: bool
    """True if the trial keeps this epoch rather than any earlier one."""


@dataclass(frozen=True, kw_only=True)
class TrialChange:
    """A trial that is new, has new epochs, or has ended."""

    row: Row
    """The trial's row, without its metrics."""

    is_ended: bool
    value: float | None
    """The study's metric at the kept epoch so far."""

    epochs: list[EpochRecord]
    """Epochs that MLflow lacks."""


class StudyFollower:
    """Reads a study database again and again, each time only what was not confirmed before."""

    def __init__(self, study: StudyInfo) -> None:
        self.study = study
        self._rules: dict[int, str] = {}
        self._epochs: dict[int, dict[int, tuple[float, float]]] = {}
        """Merit and value of each epoch that may be kept, by trial."""
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
            for trial in {record[0] for record in records} - self._rules.keys():
                self._rules[trial] = read_kept_rule(connection, study_id, trial=trial)
            new = self._sort_by_trial(records, written_epochs)
            changes = []
            for trial, state in sorted(states.items()):
                is_ended = state.has_ended
                is_new = trial not in written_epochs and state is not State.WAITING
                if trial in closed or not (is_new or is_ended or trial in new):
                    continue
                row = read_trial_row(connection, study_id, study=self.study, trial=trial)
                value = self.kept_value(trial)
                changes.append(
                    TrialChange(row=row, is_ended=is_ended, value=value, epochs=new.get(trial, []))
                )
        return changes

    def confirm(self) -> None:
        """Mark everything read so far as written, so that it is not read again."""
        self._confirmed_arrival = self._read_arrival

    def kept_value(self, trial: int) -> float | None:
        """The study's metric at the kept epoch so far; None before the first finite one."""
        epochs = self._epochs.get(trial)
        if not epochs:
            return None
        return epochs[max(epochs, key=lambda epoch: (epochs[epoch][0], -epoch))][1]

    def _sort_by_trial(
        self, records: list[tuple[int, int, float, dict[str, float]]], written_epochs: dict[int, int]
    ) -> dict[int, list[EpochRecord]]:
        new: dict[int, list[EpochRecord]] = {}
        for trial, epoch, arrival, metrics in records:
            self._read_arrival = max(self._read_arrival, arrival)
            is_kept = self._is_kept(trial, epoch, metrics)
            if epoch > written_epochs.get(trial, 0):
                record = EpochRecord(epoch=epoch, arrival=arrival, metrics=metrics, is_kept=is_kept)
                new.setdefault(trial, []).append(record)
        return new

    def _is_kept(self, trial: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Add an epoch; True if it beats all earlier ones by the trial's rule."""
        value = metrics.get(self.study.metric, math.nan)
        merit = epoch_merit(
            self._rules[trial],
            epoch,
            value=value,
            loss=metrics.get("val_loss"),
            maximize=self.study.maximize,
        )
        if merit == -math.inf:
            return False
        epochs = self._epochs.setdefault(trial, {})
        epochs[epoch] = (merit, value)
        return merit > max((epochs[one][0] for one in epochs if one < epoch), default=-math.inf)
