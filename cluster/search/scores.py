"""Scores: the learning curve of every trial so far, the epoch that each keeps, and their ranking."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.schedulers import Curves, Shares
from contract.metrics import Direction, epoch_merit, tie_break


class _Epoch(NamedTuple):
    """An epoch as its trial's rule and the ranking see it."""

    merit: float
    number: int
    score: float
    tie: tuple[float, float]
    """Order of equal scores."""

    values: tuple[float, ...]
    """All objectives."""


Rank = tuple[float, tuple[float, float], int]
"""(-score, order of equal scores, number) of a trial: the least is the best."""


class Scores:
    """A score is the first metric, negated if it is minimized, so that higher is better; it is finite."""

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        directions: Sequence[str],
        shares_of: Callable[[int], Shares],
        rule_of: Callable[[int], str] = lambda _: "best",
        val_labels: NDArray[np.int64] | None = None,
        val_groups: NDArray[np.int64] | None = None,
    ) -> None:
        """`shares_of` and `rule_of` (which epoch it keeps) take a trial's number."""
        self.metrics = tuple(metrics)
        self.metric = self.metrics[0]
        self.curves = Curves(shares_of=shares_of, val_labels=val_labels, val_groups=val_groups)
        self._sign = Direction(directions[0]).sign
        self._rule_of = rule_of
        self._epochs: dict[int, dict[int, _Epoch]] = {}
        self._kept: dict[int, _Epoch] = {}
        self._ranking: list[Rank] = []
        """Ranks of every trial with a kept epoch, the best first."""
        self._highest = -math.inf
        """The highest score that the best trial has had: it may fall again."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """The first metric, NaN where it is missing."""
        return float(metrics.get(self.metric, math.nan))

    def note(
        self,
        trial: int,
        epoch: int,
        metrics: Mapping[str, float],
        *,
        is_end: bool = False,
        predicted: bytes | None = None,
    ) -> bool:
        """Add an epoch; True if the best kept score of the study is higher than it ever was.

        Args:
            is_end: the trial completed with this epoch.
            predicted: classes of the validation images, as in the report.
        """
        value = self.value(metrics)
        if not math.isfinite(value):
            return False
        self.curves.note(trial, epoch, value * self._sign, is_end=is_end, predicted=predicted)
        self._keep(trial, epoch, metrics)
        before = self._highest
        if self._ranking:
            self._highest = max(before, -self._ranking[0][0])
        return self._highest > before

    def kept_value(self, trial: int) -> float | None:
        """The first metric of the trial's kept epoch."""
        return self._kept[trial].values[0] if trial in self._kept else None

    def kept_score(self, trial: int) -> float:
        """Score of the trial's kept epoch; -inf where it has none."""
        return self._kept[trial].score if trial in self._kept else -math.inf

    def rank(self, trial: int) -> Rank:
        """Sorts trials as `best` does, those without a kept epoch last."""
        kept = self._kept.get(trial)
        return (math.inf, (0.0, 0.0), trial) if kept is None else (-kept.score, kept.tie, trial)

    def kept_values(self, trial: int) -> tuple[float, ...] | None:
        """All objectives at the trial's kept epoch."""
        return self._kept[trial].values if trial in self._kept else None

    def best(self, *, counts: Callable[[int], bool] = lambda _: True) -> tuple[int, float] | None:
        """Number and first metric of the best trial for which `counts` holds.

        Of equals it is the one with the lowest validation loss, then the cheapest, then the earliest.
        """
        # A copy: the progress display asks from its own thread.
        trial = next((n for *_, n in self._ranking.copy() if counts(n)), None)
        return None if trial is None else (trial, self._kept[trial].values[0])

    def _keep(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Let the trial's rule choose anew; an epoch that was replayed replaces what it was before."""
        value = self.value(metrics)
        merit = epoch_merit(
            self._rule_of(trial),
            epoch,
            value=value,
            loss=metrics.get("val_loss"),
            maximize=self._sign > 0,
        )
        values = tuple(float(metrics.get(name, math.nan)) for name in self.metrics)
        new = _Epoch(merit, epoch, value * self._sign, tie_break(metrics), values)
        before = self._kept.get(trial)
        epochs = self._epochs.setdefault(trial, {})
        was_kept = before is not None and before.number == epoch
        epochs[epoch] = new
        if was_kept:  # it may have become worse than another
            new = max(epochs.values(), key=lambda one: (one.merit, -one.number))
        if new.merit > -math.inf and (before is None or was_kept or new.merit > before.merit):
            if before is not None:
                del self._ranking[bisect_left(self._ranking, self.rank(trial))]
            self._kept[trial] = new
            insort(self._ranking, self.rank(trial))
