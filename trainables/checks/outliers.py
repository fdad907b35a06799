"""Finds foreign images: unlike all others in what they show, by a backbone's features, or in their looks.

Of the features two distances are added up, each in multiples of what is usual for this data set. One is to
the nearest 3 % of the images: so many that foreign ones of one kind do not vouch for each other. The other is
to the subspace in which the images vary, found without the image itself and without those far from all
others (the residual of ViM, Wang et al. 2022, arXiv:2203.10807). Grey pictures among colour ones may have the
features of something else, so the distance of the looks to the nearest 3 % counts too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.checks.neighbours import BLOCK, Features, Groups, unit_length

NEAREST_SHARE, FEWEST = 0.03, 10
"""Images to which the distance is measured, as a share of all; at least 10."""

REFERENCES = 20_000
"""Most images that others are compared with: a sample of them suffices."""

DIMENSIONS, FOLDS = 256, 3
TRIMMED = 0.05
"""Share of the images, the farthest, that do not shape the subspace."""

THRESHOLD = 1.8
"""Score from which an image is named. It found 87 to 100 % of the foreign images planted in five sets, and
named 2 to 4 % of the others, which are the odd ones of their set."""

LOOKS_WEIGHT = 0.7
"""Weight of the looks' score: by themselves they name more of what is not foreign."""

SMALLEST_DEVIATION = 0.15
"""Least deviation that a number of the looks counts as having: one that hardly varies makes none foreign."""


@dataclass(frozen=True)
class Outlier:
    """An image that looks like none of the others."""

    row: int
    """Position among the features."""

    score: float
    """How far off it is, in multiples of the usual spread (84 % of the images are below 1)."""


def find_outliers(
    features: Features, groups: Groups, *, looks: Features | None = None, seed: int = 0
) -> list[Outlier]:
    """Name the images [N] that are far from all others, the farthest first.

    Args:
        features: [N, D] of a frozen backbone.
        groups: equal numbers for images that show the same.
        looks: [N, 9] from `describe_looks`.
    """
    if len(features) < 2 * FEWEST:
        return []
    scores = score_features(features, groups, seed=seed)
    if looks is not None:
        scores = np.maximum(scores, LOOKS_WEIGHT * score_looks(looks, groups, seed=seed))
    rows = np.flatnonzero(scores >= THRESHOLD)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return [Outlier(int(row), round(float(scores[row]), 3)) for row in rows]


def score_features(features: Features, groups: Groups, *, seed: int = 0) -> NDArray[np.float64]:
    """How far off each image [N] is in what it shows, in multiples of the spread."""
    units = unit_length(features.astype(np.float32))

    def distances(rows: slice, others: NDArray[np.int64]) -> Features:
        return 1 - units[rows] @ units[others].T

    near = _mean_distance(distances, groups, seed)
    kept = near <= np.quantile(near, 1 - TRIMMED)
    residual = _residual(units, groups, kept, seed)
    return _in_spreads(_in_spreads(_logarithms(near)) + _in_spreads(_logarithms(residual)))


def score_looks(looks: Features, groups: Groups, *, seed: int = 0) -> NDArray[np.float64]:
    """How far off each image [N] is in its looks, in multiples of the spread."""
    offsets = looks - np.median(looks, axis=0)
    scaled = offsets / (1.48 * np.median(np.abs(offsets), axis=0) + SMALLEST_DEVIATION)
    squares = (scaled**2).sum(axis=1)

    def distances(rows: slice, others: NDArray[np.int64]) -> Features:
        squared = squares[rows, None] + squares[others] - 2 * scaled[rows] @ scaled[others].T
        return np.sqrt(np.maximum(squared, 0)).astype(np.float32)

    return _in_spreads(_logarithms(_mean_distance(distances, groups, seed)))


def _logarithms(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(distances, 1e-4))


def _in_spreads(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values from their median on, in units of the way to the 84 % quantile."""
    middle, upper = np.quantile(values, [0.5, 0.84])
    spread: NDArray[np.float64] = (values - middle) / max(upper - middle, 1e-6)
    return spread


_Distances = Callable[[slice, NDArray[np.int64]], Features]


def _mean_distance(distances: _Distances, groups: Groups, seed: int) -> NDArray[np.float64]:
    """The mean distance [N] to the nearest images of other groups."""
    num = len(groups)
    references = np.sort(np.random.default_rng(seed).permutation(num)[:REFERENCES])
    count = min(len(references) - 1, max(FEWEST, round(NEAREST_SHARE * len(references))))
    means = np.empty(num)
    for start in range(0, num, BLOCK):
        rows = slice(start, start + BLOCK)
        block = distances(rows, references)
        same = groups[rows, None] == groups[references]
        block[same] = np.inf
        near = np.partition(block, count - 1, axis=1)[:, :count]
        found = np.isfinite(near)
        means[rows] = np.where(found, near, 0).sum(axis=1) / np.maximum(found.sum(axis=1), 1)
    return means


def _residual(units: Features, groups: Groups, kept: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
    """Distance of each image to the subspace of the kept images of the other folds."""
    folds = np.random.default_rng(seed).integers(0, FOLDS, int(groups.max()) + 1)[groups]
    residuals = np.zeros(len(units))
    for fold in range(FOLDS):
        fitted, held = kept & (folds != fold), folds == fold
        if not fitted.any():
            continue
        mean = units[fitted].mean(axis=0)
        spread = units[fitted] - mean
        _, directions = np.linalg.eigh(spread.T @ spread)
        dimensions = min(DIMENSIONS, int(fitted.sum()) // 4, units.shape[1] // 2)
        offset = units[held] - mean
        inside = offset @ directions[:, units.shape[1] - dimensions :]
        squares = (offset**2).sum(axis=1) - (inside**2).sum(axis=1)
        residuals[held] = np.sqrt(np.maximum(squares, 0))
    return residuals
