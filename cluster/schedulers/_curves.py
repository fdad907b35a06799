"""Curves: the score of every recorded epoch, by trial and by epoch."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, Mapping


class Curves(Mapping[int, Mapping[int, float]]):
    """Trial number -> epoch -> score, where higher is better; what is recorded so far, all trials.

    Who stands at a rung is kept and not looked for: among 3,000 trials that search took 10 ms a decision.
    """

    def __init__(self, curves: Mapping[int, Mapping[int, float]] | None = None) -> None:
        self._by_trial: dict[int, dict[int, float]] = {}
        self._by_epoch: dict[int, dict[int, float]] = {}
        for trial, curve in (curves or {}).items():
            for epoch, score in curve.items():
                self.note(trial, epoch, score)

    def note(self, trial: int, epoch: int, score: float) -> None:
        """Take an epoch in; a replayed one takes the place of the first."""
        self._by_trial.setdefault(trial, {})[epoch] = score
        if math.isnan(score):
            self._by_epoch.get(epoch, {}).pop(trial, None)
        else:
            self._by_epoch.setdefault(epoch, {})[trial] = score

    def at(self, epoch: int) -> Mapping[int, float]:
        """Trial -> score of those that have been there; what is no number does not count."""
        return self._by_epoch.get(epoch, {})

    def items(self) -> ItemsView[int, Mapping[int, float]]:
        return self._by_trial.items()

    def __getitem__(self, trial: int) -> Mapping[int, float]:
        return self._by_trial[trial]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_trial)

    def __len__(self) -> int:
        return len(self._by_trial)
