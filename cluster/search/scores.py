"""Scores: the learning curve of every trial so far, the best epoch of each, and their ranking."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

from cluster.schedulers import Curves, Shares
from contract.metrics import Direction


class Scores:
    """A score is the first metric, negated if it is minimized, so that higher is better; it is finite."""

    def __init__(
        self, metrics: Sequence[str], *, directions: Sequence[str], shares_of: Callable[[int], Shares]
    ) -> None:
        """`shares_of` takes a trial's number."""
        self.metrics = tuple(metrics)
        self.metric = self.metrics[0]
        self.curves = Curves(shares_of=shares_of)
        self._sign = Direction(directions[0]).sign
        self._best: dict[int, tuple[float, tuple[float, ...]]] = {}
        """Score and all objectives at each trial's best epoch."""
        self._ranking: list[tuple[float, int]] = []
        """(-score, number) of every trial with a score, the best first."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """The first metric, NaN where it is missing."""
        return float(metrics.get(self.metric, math.nan))

    def note(self, trial: int, epoch: int, metrics: Mapping[str, float], *, is_end: bool = False) -> bool:
        """Add an epoch; True if it is the best of the study so far, and better than all before it.

        `is_end` says that the trial completed with this epoch.
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
        """Score of the trial's best epoch; -inf where it has none."""
        return self._best[trial][0] if trial in self._best else -math.inf

    def best_values(self, trial: int) -> tuple[float, ...] | None:
        """All objectives at the trial's best epoch, which is the best by the first of them."""
        return self._best[trial][1] if trial in self._best else None

    def best(self, *, counts: Callable[[int], bool] = lambda _: True) -> tuple[int, float] | None:
        """Number and first metric of the best trial for which `counts` holds; of equals the earliest."""
        # A copy: the progress display asks from its own thread.
        trial = next((n for _, n in self._ranking.copy() if counts(n)), None)
        return None if trial is None else (trial, self._best[trial][1][0])

    def _rank(self, trial: int, score: float, *, instead_of: float | None) -> None:
        if instead_of is not None:
            del self._ranking[bisect_left(self._ranking, (-instead_of, trial))]
        insort(self._ranking, (-score, trial))
