"""Scores: the curve of every trial so far, and the best epoch of each."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

from cluster.schedulers import Curves, Shares


class Scores:
    """A score is the first metric with its sign turned so that higher is better; only numbers get in."""

    def __init__(
        self, metrics: Sequence[str], *, directions: Sequence[str], shares_of: Callable[[int], Shares]
    ) -> None:
        """`shares_of` gives by a trial's number how far in its schedule it is after each epoch."""
        self.metrics = tuple(metrics)
        self.metric = self.metrics[0]
        self.curves = Curves(shares_of=shares_of)
        self._sign = 1.0 if directions[0] == "maximize" else -1.0
        self._best: dict[int, tuple[float, tuple[float, ...]]] = {}
        """Score and all metrics of each trial's best epoch."""
        self._ranking: list[tuple[float, int]] = []
        """(-score, number) of every trial with a score, the best first."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """The first metric."""
        return float(metrics.get(self.metric, math.nan))

    def note(self, trial: int, epoch: int, metrics: Mapping[str, float], *, is_end: bool = False) -> bool:
        """Take an epoch in; True if it is better than every one of the study before it.

        `is_end` says that the trial completed with it.
        """
        value = self.value(metrics)
        if not math.isfinite(value):
            return False
        score = value * self._sign
        before = -self._ranking[0][0] if self._ranking else -math.inf
        self.curves.note(trial, epoch, score, is_end=is_end)
        if score > self.best_score(trial):
            values = tuple(float(metrics.get(name, math.nan)) for name in self.metrics)
            before_it = self._best.get(trial)
            self._best[trial] = (score, values)
            self._rank(trial, score, instead_of=None if before_it is None else before_it[0])
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

    def best(self, *, counts: Callable[[int], bool] = lambda _: True) -> tuple[int, float] | None:
        """Number and first metric of the best trial that counts; of equals the earliest."""
        # A copy: the progress display asks from its own thread.
        trial = next((n for _, n in self._ranking.copy() if counts(n)), None)
        return None if trial is None else (trial, self._best[trial][1][0])

    def _rank(self, trial: int, score: float, *, instead_of: float | None) -> None:
        if instead_of is not None:
            del self._ranking[bisect_left(self._ranking, (-instead_of, trial))]
        insort(self._ranking, (-score, trial))
