"""Scores: the curve of every trial so far, and the best epoch of each."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence


class Scores:
    """A score is the first metric with its sign turned so that higher is better; only numbers get in."""

    def __init__(self, metrics: Sequence[str], *, directions: Sequence[str]) -> None:
        self.metrics = tuple(metrics)
        self.metric = self.metrics[0]
        self.curves: dict[int, dict[int, float]] = {}
        self._sign = 1.0 if directions[0] == "maximize" else -1.0
        self._best: dict[int, tuple[float, tuple[float, ...]]] = {}
        """Score and all metrics of each trial's best epoch."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """The first metric."""
        return float(metrics.get(self.metric, math.nan))

    def note(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Take an epoch in; whether it is the best of the whole study so far."""
        value = self.value(metrics)
        if not math.isfinite(value):
            return False
        score = value * self._sign
        before = max((best for best, _ in list(self._best.values())), default=-math.inf)
        self.curves.setdefault(trial, {})[epoch] = score
        if trial not in self._best or score > self._best[trial][0]:
            values = tuple(float(metrics.get(name, math.nan)) for name in self.metrics)
            self._best[trial] = (score, values)
        return score > before

    def best_value(self, trial: int) -> float | None:
        """The first metric of the trial's best epoch."""
        return self._best[trial][1][0] if trial in self._best else None

    def best_score(self, trial: int) -> float:
        """Higher is better, whatever the metric; lowest where there is none."""
        return self._best[trial][0] if trial in self._best else -math.inf

    def best_values(self, trial: int) -> tuple[float, ...] | None:
        """All metrics of the trial's best epoch by the first."""
        return self._best[trial][1] if trial in self._best else None

    def best(self, *, without: Container[int] = ()) -> tuple[int, float] | None:
        """Number and first metric of the best trial; of equals the earliest."""
        known = [
            (score, -n, values[0]) for n, (score, values) in list(self._best.items()) if n not in without
        ]
        return (-max(known)[1], max(known)[2]) if known else None
