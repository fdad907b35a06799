"""Rungs: shares of a trial's own schedule at which trials are compared, and the scores recorded there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence

REDUCTION = 3
"""Li et al. 2020 (arXiv 1810.05934) and Ray both keep a third (their default is 4 and 4; 3 wastes less)."""
RUNG_SHARES = (REDUCTION**-2, REDUCTION**-1)
"""Shares of a trial's planned updates at which it is judged.

A share, not an epoch: trials differ in batch size, warm-up and length, and only those that have come equally
far in their own schedules can be compared.
"""
_ROUNDING = 1e-9

Shares = tuple[float, ...]
"""Share of a trial's planned updates done after each of its epochs, 0 while it warms up; the last is 1."""


def find_rungs(shares: Sequence[float]) -> tuple[int, ...]:
    """The epoch at which a trial stands at each rung, the first rung first; 0 where it stands at none.

    A rung is the first epoch before the trial's last one that has reached the rung's share. Where several
    rungs fall on one epoch, the trial stands at the last of them: that is how far it has come.

    Args:
        shares: share of the planned updates done after each epoch, 0 while the learning rate warms up.
    """
    epochs = [_first_epoch(shares[:-1], rung) for rung in RUNG_SHARES]
    return tuple(0 if epoch in epochs[rung + 1 :] else epoch for rung, epoch in enumerate(epochs))


def rung_epochs(shares: Sequence[float]) -> tuple[int, ...]:
    """The epochs at which a trial may be stopped or paused, in order."""
    return tuple(sorted(epoch for epoch in find_rungs(shares) if epoch))


def even_shares(num_epochs: int) -> tuple[float, ...]:
    """The shares of a trial whose epochs all make the same number of updates, without warm-up."""
    return tuple(epoch / num_epochs for epoch in range(1, num_epochs + 1))


def stays(score: float, scores: Collection[float]) -> bool:
    """Whether a score is among the best third of those that arrived so far.

    A tie with the last one kept stays: with few validation images equal scores are common. Below REDUCTION
    trials a rung cannot yet tell, so everybody passes, as in Ray's own ASHA.
    """
    if len(scores) < REDUCTION:
        return True
    return sum(other > score for other in scores) < len(scores) // REDUCTION


def find_rank(trial: int, scores: Mapping[int, float]) -> int:
    """How many are before it, from the best down; the earlier of two equals is first."""
    score = scores[trial]
    return sum(other > score or (other == score and n < trial) for n, other in scores.items())


def _first_epoch(shares: Sequence[float], wanted: float) -> int:
    reached = (epoch for epoch, share in enumerate(shares, start=1) if share >= wanted - _ROUNDING)
    return next(reached, 0)


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
