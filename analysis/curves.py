"""Learning curves of all trials, and the budget at which they can be compared fairly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import text

from analysis.reading import StudyInfo, connect, read_rows
from contract.messages import EpochDecision

NUMBER = r'":\s*(-?[0-9][0-9.eE+-]*)'


@dataclass
class Curve:
    """Learning curve of one trial: one entry an epoch in each list."""

    epochs: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    """The study's metric after each epoch; NaN where an epoch has none."""

    arrivals: list[float] = field(default_factory=list)
    """Unix times at which the epochs were recorded."""

    seconds: list[float] = field(default_factory=list)
    """Duration of each epoch in seconds."""

    stopped: bool = False
    """The scheduler stopped it after its last epoch."""

    def value_at(self, epoch: int) -> float | None:
        """Return the metric after an epoch; None if the trial did not reach it or the value is not finite."""
        if epoch not in self.epochs:
            return None
        value = self.values[self.epochs.index(epoch)]
        return value if math.isfinite(value) else None


def load_curves(study: StudyInfo) -> dict[int, Curve]:
    """Load curves by trial number; cutting two numbers out of each row is far faster than parsing it."""
    metric = re.compile(f'"{re.escape(study.metric)}{NUMBER}')
    duration = re.compile(f'"epoch_seconds{NUMBER}')
    query = text(
        "SELECT trial, epoch, arrival, decision, metrics FROM epochs WHERE study_id = :id "
        "ORDER BY trial, epoch"
    )
    curves: dict[int, Curve] = {}
    with connect(study) as (connection, study_id):
        for trial, epoch, arrival, decision, metrics in read_rows(connection, query, study_id):
            curve = curves.setdefault(trial, Curve())
            found, spent = metric.search(metrics), duration.search(metrics)
            curve.epochs.append(epoch)
            curve.values.append(float(found[1]) if found else math.nan)
            curve.arrivals.append(arrival)
            curve.seconds.append(float(spent[1]) if spent else 0.0)
            curve.stopped = decision == EpochDecision.STOP
    return curves


def find_rungs(curves: Mapping[int, Curve]) -> list[int]:
    """Epochs after which the scheduler stopped trials."""
    return sorted({curve.epochs[-1] for curve in curves.values() if curve.stopped})


def find_common_epoch(curves: Mapping[int, Curve], *, share: float = 0.5) -> int:
    """Return the latest epoch that at least this share of the trials reached; 0 without trials.

    Values at one epoch are comparable. Best values are not: good trials get more epochs, so their best values
    mix what a hyperparameter does with how long its trial ran.
    """
    lengths = sorted((curve.epochs[-1] for curve in curves.values() if curve.epochs), reverse=True)
    return lengths[math.ceil(share * len(lengths)) - 1] if lengths else 0
