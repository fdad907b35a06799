"""Cuts images into folds: stratified, seeded, of about equal size, and no group torn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.views import draw_uniform

ALWAYS_TRAINED = -1
"""Fold of images that are never held out: the only group of their class, which else could not be learnt."""


def cut_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, num_folds: int, seed: int
) -> NDArray[np.int64]:
    """Give every image the number of its fold, from 0, or ALWAYS_TRAINED.

    Groups are placed one after the other, the largest first and equal ones at random, each in the fold that
    has fewest images of its classes; of equal folds in the smallest.

    Raises:
        ValueError: there are too few groups for so many folds.
    """
    if num_folds < 2:
        raise ValueError(f"--folds must be at least 2, got {num_folds}")
    folds = np.full(len(labels), ALWAYS_TRAINED, dtype=np.int64)
    has = np.zeros((num_folds, int(labels.max()) + 1), dtype=np.int64)
    for members in _movable_groups(labels, groups, seed=seed):
        classes, counts = np.unique(labels[members], return_counts=True)
        crowded = (has[:, classes] * counts).sum(axis=1) / counts.sum()
        chosen = int(np.lexsort((np.arange(num_folds), has.sum(axis=1), crowded))[0])
        has[chosen, classes] += counts
        folds[members] = chosen
    if (has.sum(axis=1) == 0).any():
        most = max(2, int((has.sum(axis=1) > 0).sum()))
        raise ValueError(
            f"--folds {num_folds} is more than the images of train and val have groups: pass at most {most}"
        )
    return folds


def _movable_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, seed: int
) -> list[NDArray[np.int64]]:
    """Images of each group that may be held out, the largest groups first."""
    order = draw_uniform(seed, "folds", 0, np.arange(len(labels)), 1)[:, 0]
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group])) + 1
    found = np.split(by_group, starts)
    num_groups = np.bincount(np.concatenate([np.unique(labels[members]) for members in found]))
    movable = [members for members in found if (num_groups[labels[members]] > 1).all()]
    return sorted(movable, key=lambda members: (-len(members), order[members[0]]))
