"""Scores that are low for images of unknown classes, of probabilities and of a frozen backbone's features."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.probe import Features, Sums, unit_length
from analysis.predictions import Array

KEPT_SHARE = 0.95
"""Share of the validation images that the threshold keeps."""


class Score(StrEnum):
    """What is low for images of unknown classes; the values stand in answer.json."""

    BOTH = "both"
    """`entropy` plus `distance`, each less its median and divided by its spread on known images."""

    PROBABILITY = "probability"
    """The highest probability."""

    ENTROPY = "entropy"
    """GEN: minus the generalised entropy of the probabilities."""

    DISTANCE = "distance"
    """Minus the logarithm of the frozen features' squared Mahalanobis distance to the nearest class mean."""

    @property
    def needs_features(self) -> bool:
        """True if it needs features of the frozen backbone."""
        return self in (Score.BOTH, Score.DISTANCE)


TITLES = {
    Score.BOTH: "generalised entropy of the probabilities and the distance of the frozen features",
    Score.PROBABILITY: "highest probability",
    Score.ENTROPY: "generalised entropy of the probabilities",
    Score.DISTANCE: "distance of the frozen features to the nearest class",
}


@dataclass(frozen=True, eq=False)
class Distances:
    """Squared Mahalanobis distances of features to the nearest class mean, both of unit length."""

    means: Features
    """[C, D], only of classes with images."""

    whitening: Features
    """[D, D]; a difference of features times it has independent entries of variance 1 within a class."""

    def score(self, features: Array) -> NDArray[np.float64]:
        """Minus the logarithm of each image's [N, D] squared distance to the nearest class, [N]."""
        whitened, means = unit_length(features) @ self.whitening, self.means @ self.whitening
        squares = (whitened**2).sum(axis=1)[:, None] - 2 * whitened @ means.T + (means**2).sum(axis=1)
        score: NDArray[np.float64] = -np.log(np.maximum(squares.min(axis=1), 1e-12).astype(np.float64))
        return score


@dataclass(frozen=True)
class Scale:
    """Median and spread of a score on known images, so that scores can be added up."""

    middle: float
    spread: float
    """From the median down to the 16 % quantile; 1 where these are equal."""

    @classmethod
    def of(cls, values: Array) -> Self:
        """Measure a score of known images."""
        middle, lower = np.quantile(values, (0.5, 0.16))
        spread = float(middle - lower)
        return cls(float(middle), spread if spread > 1e-9 else 1.0)

    def apply(self, values: Array) -> NDArray[np.float64]:
        """Count from the median in spreads."""
        scaled: NDArray[np.float64] = (values - self.middle) / self.spread
        return scaled


def add_scores(entropy: Array, distance: Array, scales: tuple[Scale, Scale]) -> NDArray[np.float64]:
    """Add up the two scores of each image, [N], each on its scale."""
    return scales[0].apply(entropy) + scales[1].apply(distance)


def fit_distances(units: Features, labels: Array, num_classes: int) -> Distances:
    """Fit class means and one covariance to features of unit length [N, D]."""
    sums = Sums.of(units, labels, num_classes=num_classes)
    return fit_distances_to_sums(sums, float(sum_fourth_powers(units, labels, sums).sum()))


def fit_distances_to_sums(sums: Sums, fourth_power: float) -> Distances:
    """Shrink the covariance within the classes as Ledoit and Wolf 2004, J. Multivar. Anal. 88:365.

    Args:
        fourth_power: sum over the images of the fourth power of the distance to their class mean.
    """
    from scipy.linalg import cholesky, solve_triangular

    present = sums.counts > 0
    means = sums.totals[present] / sums.counts[present, None]
    count, width = float(sums.counts.sum()), len(sums.products)
    covariance = (sums.products - (means.T * sums.counts[present]) @ means) / count
    level, squares = float(np.trace(covariance)) / width, float((covariance**2).sum())
    noise = max(0.0, fourth_power / count - squares) / count
    spread = squares - width * level**2
    share = min(1.0, noise / spread) if spread > 0 else 1.0
    shrunk = ((1 - share) * covariance).astype(np.float32)
    shrunk[np.diag_indices(width)] += np.float32((share + 1e-4) * level + 1e-12)
    root = cholesky(shrunk, lower=True, check_finite=False)
    whitening = solve_triangular(root, np.eye(width, dtype=np.float32), lower=True, check_finite=False).T
    return Distances(means.astype(np.float32), whitening)


def sum_fourth_powers(units: Features, labels: Array, sums: Sums) -> NDArray[np.float64]:
    """Sum of the fourth powers of the distances of each class's images to their mean, [C]."""
    means = (sums.totals / np.maximum(sums.counts, 1)[:, None]).astype(np.float32)
    squares = ((units - means[labels]) ** 2).sum(axis=1).astype(np.float64)
    return np.bincount(labels, weights=squares**2, minlength=len(sums.counts)).astype(np.float64)


def keep(values: Array) -> float:
    """Threshold that new images of the known classes fall below at most once in 20 times on average.

    -inf where the images are too few for that (19 are needed).
    """
    rank = int(np.floor(round((len(values) + 1) * (1 - KEPT_SHARE), 9)))
    return float(np.sort(values)[rank - 1]) if rank > 0 else float("-inf")


def auroc_of(known: Array, strangers: Array) -> float:
    """Chance that an image of a known class scores higher than one of an unknown class; ties count half."""
    ordered = np.sort(strangers)
    below = np.searchsorted(ordered, known, "left").sum() + np.searchsorted(ordered, known, "right").sum()
    return float(below) / 2 / (len(known) * len(strangers))
