"""Scores: the curve of every trial so far, and the best epoch of each."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping


class Scores:
    """A score is the metric with its sign turned so that higher is better; only numbers get in."""

    def __init__(self, metric: str, *, direction: str) -> None:
        self.metric = metric
        self.curves: dict[int, dict[int, float]] = {}
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._best: dict[int, float] = {}

    def value(self, metrics: Mapping[str, float]) -> float:
        return float(metrics.get(self.metric, math.nan))

    def note(self, trial: int, epoch: int, value: float) -> None:
        if math.isfinite(value):
            score = value * self._sign
            self.curves.setdefault(trial, {})[epoch] = score
            self._best[trial] = max(score, self._best.get(trial, -math.inf))

    def best_value(self, trial: int) -> float | None:
        """The metric of the trial's best epoch."""
        return self._best[trial] * self._sign if trial in self._best else None

    def best(self, *, without: Container[int] = ()) -> tuple[int, float] | None:
        """Number and metric of the best trial; of equals the earliest."""
        known = [(score, -trial) for trial, score in list(self._best.items()) if trial not in without]
        return (-max(known)[1], max(known)[0] * self._sign) if known else None
