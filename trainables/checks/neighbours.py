"""Nearest neighbours among images by their features, an image's own group left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Groups = NDArray[np.int64]

BLOCK = 512
"""Rows of the matrix of similarities that are computed at a time."""


def unit_length(features: Features) -> Features:
    """Divide every row by its length."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def similarities(features: Features, groups: Groups) -> Iterator[tuple[int, Features]]:
    """Yield (first row, cosines [B, N] of rows of unit length), block by block; -2 within a group."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], groups), np.searchsorted(groups[order], groups, side="right")
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK] @ features.T
        for at in range(len(block)):
            block[at, order[bounds[0][start + at] : bounds[1][start + at]]] = -2
        yield start, block


def nearest(
    features: Features, groups: Groups, *, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest images of other groups, rows [N, count], and their cosines; -2 where there is none."""
    count = min(count, len(features) - 1)
    rows = np.empty((len(features), count), np.int64)
    cosines = np.empty((len(features), count), np.float32)
    for start, block in similarities(features, groups):
        near = np.argpartition(-block, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(block, near, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[start : start + len(block)] = np.take_along_axis(near, order, axis=1)
        cosines[start : start + len(block)] = np.take_along_axis(values, order, axis=1)
    return rows, cosines
