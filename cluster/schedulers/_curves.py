"""Curves: the score of every recorded epoch by trial, and who stands at which rung."""

from __future__ import annotations

import math
from collections.abc import Callable, ItemsView, Iterator, Mapping

from cluster.schedulers._rungs import RUNG_SHARES, find_rungs

Shares = tuple[float, ...]
"""Share of a trial's planned updates done after each of its epochs, 0 while it warms up; the last is 1."""


class Curves(Mapping[int, Mapping[int, float]]):
    """Trial number -> epoch -> score, where higher is better; what is recorded so far, all trials.

    Who stands at a rung is kept and not looked for: among 3,000 trials that search took 10 ms a decision.
    """

    def __init__(
        self,
        curves: Mapping[int, Mapping[int, float]] | None = None,
        *,
        shares_of: Callable[[int], Shares],
    ) -> None:
        """`shares_of` gives the planned shares of a trial by its number."""
        self._by_trial: dict[int, dict[int, float]] = {}
        self._by_rung: tuple[dict[int, float], ...] = tuple({} for _ in RUNG_SHARES)
        self._shares_of = shares_of
        self._shares: dict[int, Shares] = {}
        self._rungs: dict[int, tuple[int, ...]] = {}
        for trial, curve in (curves or {}).items():
            for epoch, score in curve.items():
                self.note(trial, epoch, score)

    def note(self, trial: int, epoch: int, score: float, *, is_end: bool = False) -> None:
        """Take an epoch in; a replayed one takes the place of the first.

        A trial that ended with this epoch is no rival at its rung: its value is a final one, those of the
        others are on the way.
        """
        self._by_trial.setdefault(trial, {})[epoch] = score
        rung = self.rung_at(trial, epoch)
        if rung is None:
            return
        if is_end or math.isnan(score):
            self._by_rung[rung].pop(trial, None)
        else:
            self._by_rung[rung][trial] = score

    def shares(self, trial: int) -> Shares:
        """How far in its schedule the trial is after each of its epochs."""
        if trial not in self._shares:
            self._shares[trial] = self._shares_of(trial)
        return self._shares[trial]

    def rungs(self, trial: int) -> tuple[int, ...]:
        """The trial's epoch at each rung, 0 where it has none."""
        if trial not in self._rungs:
            self._rungs[trial] = find_rungs(self.shares(trial))
        return self._rungs[trial]

    def rung_at(self, trial: int, epoch: int) -> int | None:
        """The rung, counted from 0, at which the trial stands after this epoch; None between rungs."""
        rungs = self.rungs(trial)
        return rungs.index(epoch) if epoch in rungs else None

    def at_rung(self, rung: int) -> Mapping[int, float]:
        """Trial -> score there, of those that have reached the rung and did not end with it."""
        return self._by_rung[rung]

    def items(self) -> ItemsView[int, Mapping[int, float]]:
        return self._by_trial.items()

    def __getitem__(self, trial: int) -> Mapping[int, float]:
        return self._by_trial[trial]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_trial)

    def __len__(self) -> int:
        return len(self._by_trial)
