"""Finds foreign images: those that look like no class of the data set, by the features of a frozen backbone.

Two distances are added up, each in multiples of what is usual for this data set. One is to the nearest 3 % of
the images: so many that foreign ones of one kind do not vouch for each other. The other is to the subspace in
which the images vary, found without the image itself and without those that are far from all others
(the residual of ViM, Wang et al. 2022, arXiv:2203.10807).
"""

from __future__ import annotations

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
"""Score from which an image is named. It found 78 to 100 % of foreign images planted in five sets (15 runs,
on average 95 %), and named 2 to 4 % of the others, the odd ones of their set."""


@dataclass(frozen=True)
class Outlier:
    """An image that looks like none of the others."""

    row: int
    """Position among the features."""

    score: float
    """How far off it is, in multiples of the usual spread (84 % of the images are below 1)."""


def find_outliers(features: Features, groups: Groups, *, seed: int = 0) -> list[Outlier]:
    """Name the images [N] that are far from all others, the farthest first.

    Args:
        features: [N, D] of a frozen backbone.
        groups: equal numbers for images that show the same.
    """
    if len(features) < 2 * FEWEST:
        return []
    scores = score_outliers(features, groups, seed=seed)
    rows = np.flatnonzero(scores >= THRESHOLD)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return [Outlier(int(row), round(float(scores[row]), 3)) for row in rows]


def score_outliers(features: Features, groups: Groups, *, seed: int = 0) -> NDArray[np.float64]:
    """How far off each image [N] is, in multiples of the spread."""
    units = unit_length(features.astype(np.float32))
    distances = _in_spreads(np.log(np.maximum(_mean_distance(units, groups, seed), 1e-4)))
    kept = distances <= np.quantile(distances, 1 - TRIMMED)
    residuals = _in_spreads(np.log(np.maximum(_residual(units, groups, kept, seed), 1e-4)))
    return _in_spreads(distances + residuals)


def _in_spreads(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values from their median on, in units of the distance to the 84 % quantile."""
    middle, upper = np.quantile(values, [0.5, 0.84])
    return (values - middle) / max(upper - middle, 1e-6)


def _mean_distance(units: Features, groups: Groups, seed: int) -> NDArray[np.float64]:
    """1 - the mean cosine to the nearest images of other groups."""
    references = np.sort(np.random.default_rng(seed).permutation(len(units))[:REFERENCES])
    count = min(len(references) - 1, max(FEWEST, round(NEAREST_SHARE * len(references))))
    distances = np.empty(len(units))
    others = units[references]
    for start in range(0, len(units), BLOCK):
        block = units[start : start + BLOCK] @ others.T
        same = groups[start : start + BLOCK, None] == groups[references]
        block[same] = -1
        near = np.partition(block, -count, axis=1)[:, -count:]
        distances[start : start + BLOCK] = 1 - near.mean(axis=1)
    return distances


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
