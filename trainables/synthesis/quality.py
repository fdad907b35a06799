"""Measures of generated images against real ones, on frozen features; and the alarm for a collapse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from trainables.synthesis.features import Features

NEIGHBOURS = 5
"""k of precision, recall, density and coverage, as Naeem et al. chose it."""

MOST_COMPARED = 2000
"""Most real and generated images, at random, that the measures look at: memory grows by the square."""

FEWEST = 3
"""Real images of a class below which nothing can be measured."""

COLLAPSED_SPREAD = 0.5
"""Mean distance of generated images from each other, as a share of the real ones', below which a class has
collapsed."""

COLLAPSED_COVERAGE = 0.1
"""Coverage below which a class has collapsed; of real images against others of their class it is near 0.9."""

PROBE_PENALTY = 10.0
"""Inverse strength C of the probe's penalty on features of unit length. On the digits' validation and test
images a probe of the real ones was right for 0.92 with it, and so were the best of four ridge penalties."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How generated images Y_1 … Y_M compare with real ones X_1 … X_N, on frozen features.

    NND_k(X_i) is the distance of X_i from its k-th nearest real neighbour, B(X_i, r) the ball of radius r
    around it. Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv:1904.06991), density and
    coverage those of Naeem et al. 2020 (arXiv:2002.09797).
    """

    precision: float
    """Share of generated images that are like real ones: 1/M Σ_j [Y_j in some B(X_i, NND_k(X_i))]."""

    recall: float
    """Share of real images that are like generated ones: 1/N Σ_i [X_i in some B(Y_j, NND_k(Y_j))]."""

    density: float
    """Real neighbourhoods that a generated image is in: 1/(kM) Σ_j Σ_i [Y_j in B(X_i, NND_k(X_i))]; 1 for
    images as real as the real ones, and more where they crowd in the middle."""

    coverage: float
    """Share of real images with a generated one nearby: 1/N Σ_i [some Y_j in B(X_i, NND_k(X_i))]."""

    spread: float
    """Mean distance of generated images from each other, divided by that of the real ones."""


def compare(real: Features, fake: Features, *, k: int = NEIGHBOURS) -> Measures | None:
    """Measure generated images [M, D] against real ones [N, D]; None for too few of either.

    Args:
        k: neighbours; fewer where there are not so many images.
    """
    real, fake = _sample(real), _sample(fake)
    if min(len(real), len(fake)) < FEWEST:
        return None
    among_real, among_fake = pairwise_distances(real), pairwise_distances(fake)
    across = pairwise_distances(real, fake)
    near_real = _radii(among_real, k)[:, None]
    near_fake = _radii(among_fake, k)[None]
    inside = across <= near_real
    used = min(k, len(real) - 1)
    return Measures(
        precision=float(inside.any(axis=0).mean()),
        recall=float((across <= near_fake).any(axis=1).mean()),
        density=float(inside.sum(axis=0).mean() / used),
        coverage=float(inside.any(axis=1).mean()),
        spread=float(_mean_distance(among_fake) / max(_mean_distance(among_real), 1e-6)),
    )


def _sample(features: Features) -> Features:
    if len(features) <= MOST_COMPARED:
        return features
    return features[np.random.default_rng(0).permutation(len(features))[:MOST_COMPARED]]


def _radii(distances: NDArray[np.floating], k: int) -> NDArray[np.floating]:
    """Distance [N] of each image from its k-th nearest other one, given all distances [N, N]."""
    k = min(k, len(distances) - 1)
    radii: NDArray[np.floating] = np.partition(distances, k, axis=1)[:, k]  # position 0 is the image itself
    return radii


def _mean_distance(distances: NDArray[np.floating]) -> float:
    return float(distances.sum() / (len(distances) * (len(distances) - 1)))


def kernel_distance(first: Features, second: Features) -> float:
    """Squared maximum mean discrepancy of two sets of features [N, D] and [M, D], unbiased: 0 for equal ones.

    The kernel is (x·y / D + 1)³, as for the Kernel Inception Distance (Bińkowski et al. 2018,
    arXiv:1801.01401); here of this project's backbone, so that values compare only with each other.
    """
    width = first.shape[1]

    def kernel(one: Features, other: Features) -> NDArray[np.float64]:
        values: NDArray[np.float64] = (one.astype(np.float64) @ other.T / width + 1) ** 3
        return values

    def within(features: Features) -> float:
        values = kernel(features, features)
        number = len(features)
        return float((values.sum() - np.trace(values)) / (number * (number - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())


def describe_collapse(measures: Measures | None) -> str:
    """Say in plain words how a class has collapsed; empty if it has not, or cannot be measured."""
    if measures is None:
        return ""
    if measures.spread < COLLAPSED_SPREAD:
        return (
            f"its images are nearly all alike: from each other they are {measures.spread:.2f} times as far as"
            " real ones are"
        )
    if measures.coverage < COLLAPSED_COVERAGE:
        return f"only {measures.coverage:.0%} of its real images have a generated one that is like them"
    return ""


def probe_accuracy(features: Features, labels: Labels, tested: Features, tested_labels: Labels) -> float:
    """Share of the tested images that a linear probe is right about which was trained on other features.

    Args:
        features: [N, D] of the images that the probe is trained on.
        tested: [M, D] of those that it is tested on.
    """
    probe = make_pipeline(Normalizer(), LogisticRegression(C=PROBE_PENALTY, max_iter=300))
    probe.fit(features, labels)
    return float((probe.predict(tested) == tested_labels).mean())
