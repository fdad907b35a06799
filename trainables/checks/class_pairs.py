"""Finds classes that are hard to tell apart, or one another's doubles, by how often they are confused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.checks.findings import ClassPair

CONFUSED = 0.2
"""Share of two classes' images that are taken for the other's; of true doubles it is a half."""

FEWEST = 4
"""Confused images below which a share says nothing."""


def find_class_pairs(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> list[ClassPair]:
    """Find pairs of classes by predictions [N] for images that a classifier had not seen, the worst first.

    Args:
        labels: class of each image [N], as given.
        predicted: -1 where there is no prediction.
    """
    wrong = (predicted >= 0) & (predicted != labels)
    ends = np.sort(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=1)
    pairs, confused = np.unique(ends.reshape(-1, 2), axis=0, return_counts=True)
    sizes = np.bincount(labels[predicted >= 0], minlength=int(max(labels.max(), predicted.max())) + 1)
    found = []
    for (first, second), count in zip(pairs.tolist(), confused.tolist(), strict=True):
        total = int(sizes[first] + sizes[second])
        if count >= FEWEST and count / total >= CONFUSED:
            why = f"{count:,} of their {total:,} images are taken for the other's"
            found.append(ClassPair((first, second), why, count / total))
    return sorted(found, key=lambda pair: -pair.confusion)
