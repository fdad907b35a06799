"""Rungs: shares of a trial's own schedule at which trials are compared, and the scores recorded there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from contract.predictions import MOST_PREDICTED, unpack_classes

REDUCTION = 3
"""Li et al. 2020 (arXiv 1810.05934) and Ray both keep a third (their default is 4 and 4; 3 wastes less)."""
RUNG_SHARES = (REDUCTION**-2, REDUCTION**-1)
"""Shares of a trial's planned updates at which it is compared with the others.

Shares rather than epochs, because trials differ in batch size, warm-up and length: only trials that have come
equally far in their own schedules can be compared.
"""
_ROUNDING = 1e-9
"""Tolerance for shares that were computed in another order of operations."""

Shares = tuple[float, ...]
"""Share of a trial's planned updates done after each of its epochs: 0 during warm-up, 1 after the last."""


def find_rungs(shares: Sequence[float], at: Sequence[float] = RUNG_SHARES) -> tuple[int, ...]:
    """Epoch at which a trial reaches each rung, in the order of the rungs; 0 for a rung that it skips.

    A trial reaches a rung at its first epoch with the rung's share; its last epoch is never a rung. Where
    several rungs fall on one epoch, only the last of them counts.
    """
    epochs = [first_epoch(shares[:-1], rung) for rung in at]
    return tuple(0 if epoch in epochs[rung + 1 :] else epoch for rung, epoch in enumerate(epochs))


def rung_epochs(shares: Sequence[float], at: Sequence[float] = RUNG_SHARES) -> tuple[int, ...]:
    """The epochs at which a trial may be stopped or paused, in ascending order."""
    return tuple(sorted(epoch for epoch in find_rungs(shares, at) if epoch))


def even_shares(num_epochs: int) -> tuple[float, ...]:
    """Shares of a trial without warm-up whose epochs all make the same number of updates."""
    return tuple(epoch / num_epochs for epoch in range(1, num_epochs + 1))


def stays(score: float, scores: Collection[float]) -> bool:
    """Whether a score is in the best third of all scores that its rung has so far.

    A tie with the last one kept stays, because equal scores are common with few validation images. While a
    rung has fewer than REDUCTION scores every trial passes, as in Ray's own ASHA.
    """
    if len(scores) < REDUCTION:
        return True
    return sum(other > score for other in scores) < len(scores) // REDUCTION


def find_rank(trial: int, scores: Mapping[int, float]) -> int:
    """Number of trials ranked above this one; of equal scores the lower trial number ranks higher."""
    score = scores[trial]
    return sum(other > score or (other == score and n < trial) for n, other in scores.items())


def first_epoch(shares: Sequence[float], wanted: float) -> int:
    """The first epoch with at least this share of the planned updates done; 0 if there is none."""
    reached = (epoch for epoch, share in enumerate(shares, start=1) if share >= wanted - _ROUNDING)
    return next(reached, 0)


class Curves(Mapping[int, Mapping[int, float]]):
    """Trial number -> epoch -> score of all trials so far, where higher is better.

    The scores at each rung are kept up to date: collecting them among 3,000 trials took 10 ms a decision.
    """

    def __init__(
        self,
        curves: Mapping[int, Mapping[int, float]] | None = None,
        *,
        shares_of: Callable[[int], Shares],
        val_labels: NDArray[np.int64] | None = None,
        val_groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin with given scores.

        Args:
            shares_of: takes a trial's number.
            val_labels: classes of the validation images, [images]; None where they are not known.
            val_groups: numbers from 0, equal for images that belong together; None where each is its own.
        """
        self._labels = None if val_labels is None else val_labels[:MOST_PREDICTED]
        self.groups = None if val_groups is None else val_groups[:MOST_PREDICTED]
        """Group of each image of `hits`."""
        self._hits: dict[int, dict[int, NDArray[np.uint8]]] = {}
        """Whether each image was classified right, eight a byte: 10,000 images and epochs are 12 MB."""
        self._by_trial: dict[int, dict[int, float]] = {}
        self._by_rung: tuple[dict[int, float], ...] = tuple({} for _ in RUNG_SHARES)
        self._shares_of = shares_of
        self._shares: dict[int, Shares] = {}
        self._rungs: dict[int, tuple[int, ...]] = {}
        for trial, curve in (curves or {}).items():
            for epoch, score in curve.items():
                self.note(trial, epoch, score)

    def note(
        self, trial: int, epoch: int, score: float, *, is_end: bool = False, predicted: bytes | None = None
    ) -> None:
        """Add the score of an epoch, and its packed predictions; a replayed epoch replaces what it was.

        A trial that ended with this epoch does not count at its rung: its score is final, and those of the
        others are intermediate.
        """
        self._note_hits(trial, epoch, predicted)
        self._by_trial.setdefault(trial, {})[epoch] = score
        rung = self.rung_at(trial, epoch)
        if rung is None:
            return
        if is_end or math.isnan(score):
            self._by_rung[rung].pop(trial, None)
        else:
            self._by_rung[rung][trial] = score

    def hits(self, trial: int, epoch: int) -> NDArray[np.bool_] | None:
        """Whether the trial classified each validation image right, [images], for paired comparisons.

        All trials have the same images in the same order, the first MOST_PREDICTED of the split. None if the
        classes or the predictions of these images are not known.
        """
        packed = self._hits.get(trial, {}).get(epoch)
        if packed is None or self._labels is None:
            return None
        return np.unpackbits(packed, count=len(self._labels)).astype(np.bool_)

    def _note_hits(self, trial: int, epoch: int, predicted: bytes | None) -> None:
        self._hits.get(trial, {}).pop(epoch, None)
        if predicted is None or self._labels is None:
            return
        classes = unpack_classes(predicted)
        if len(classes) == len(self._labels):
            self._hits.setdefault(trial, {})[epoch] = np.packbits(classes == self._labels)

    def shares(self, trial: int) -> Shares:
        """Share of the trial's planned updates done after each of its epochs."""
        if trial not in self._shares:
            self._shares[trial] = self._shares_of(trial)
        return self._shares[trial]

    def rungs(self, trial: int) -> tuple[int, ...]:
        """The trial's epoch at each rung; 0 for a rung that it skips."""
        if trial not in self._rungs:
            self._rungs[trial] = find_rungs(self.shares(trial))
        return self._rungs[trial]

    def rung_at(self, trial: int, epoch: int) -> int | None:
        """Index of the rung that the trial reaches with this epoch; None between rungs."""
        rungs = self.rungs(trial)
        return rungs.index(epoch) if epoch in rungs else None

    def at_rung(self, rung: int) -> Mapping[int, float]:
        """Score by trial number of all trials that reached the rung and did not end there."""
        return self._by_rung[rung]

    def items(self) -> ItemsView[int, Mapping[int, float]]:
        return self._by_trial.items()

    def __getitem__(self, trial: int) -> Mapping[int, float]:
        return self._by_trial[trial]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_trial)

    def __len__(self) -> int:
        return len(self._by_trial)
