"""Measures of generated images against real ones, on frozen features; and the alarm for a collapse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from trainables.synthesis.features import Features

NEIGHBOURS = 5
"""k of precision, recall, density and coverage, as Naeem et al. chose it."""

MOST_COMPARED = 2000
"""Most real and generated images, at random, that the measures look at: memory grows by the square."""

FEWEST = 3
"""Real images of a class below which nothing can be measured."""

COLLAPSED_VARIETY = 0.4
"""Variety below which a class has collapsed to a few images, which may lie far from each other."""

COLLAPSED_PICTURES = 0.15
"""The same for small grey pictures instead of features: it finds repeated images that differ in colour, light
or noise, which change the features of drawings and textures much. `python -m benchmarks gan_quality collapse`
has how often the alarm goes off with both."""

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

    nearest: float
    """Median distance of a generated image from the nearest real one, divided by that of a real image from
    the nearest other real one: far below 1 for copies."""

    variety: float
    """Median distance of a generated image from the nearest other generated one, divided by that of a real
    image from the nearest other real one: 0 for a few images again and again, 1 for images as different from
    each other as real ones."""


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
    usual = _nearest(among_real)
    return Measures(
        precision=float(inside.any(axis=0).mean()),
        recall=float((across <= near_fake).any(axis=1).mean()),
        density=float(inside.sum(axis=0).mean() / used),
        coverage=float(inside.any(axis=1).mean()),
        nearest=_share(np.median(across.min(axis=0)), usual),
        variety=_share(_nearest(among_fake), usual),
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


def _nearest(distances: NDArray[np.floating]) -> float:
    """Median distance of an image from the nearest other one, given all distances [N, N]."""
    return float(np.median(_radii(distances, 1)))


def _share(distance: float, usual: float) -> float:
    return float(distance / max(usual, 1e-6))


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


def variety_of(real: Features, fake: Features) -> float:
    """Median distance of a generated one [M, D] from the nearest other, as a share of the real ones' [N, D].

    It is 1 where there are too few of either.
    """
    if min(len(real), len(fake)) < FEWEST:
        return 1.0
    return _share(*(_nearest(pairwise_distances(_sample(each))) for each in (fake, real)))


def describe_collapse(
    measures: Measures | None,
    *,
    picture_variety: float = 1.0,
    recognised: float = 1.0,
    num_classes: int = 1,
) -> str:
    """Say in plain words how a class has collapsed; empty if it has not, or cannot be measured.

    Args:
        picture_variety: `variety_of` small grey pictures of the images.
        recognised: share of the class's generated images that a probe of real ones takes for it.
        num_classes: classes that the probe knows.
    """
    if measures is None:
        return ""
    for value, limit in (
        (measures.variety, COLLAPSED_VARIETY),
        (picture_variety, COLLAPSED_PICTURES),
    ):
        if value < limit:
            return (
                "a few images come again and again: from the nearest other one they are "
                f"{value:.2f} times as far as real ones are"
            )
    if measures.coverage < COLLAPSED_COVERAGE:
        return f"only {measures.coverage:.0%} of its real images have a generated one that is like them"
    if num_classes > 1 and recognised <= 1 / num_classes:
        return (
            "its images look like those of other classes: a probe trained on real ones takes "
            f"{recognised:.0%} of them for this class, and chance is {1 / num_classes:.0%}"
        )
    return ""


def probe_accuracy(features: Features, labels: Labels, tested: Features, tested_labels: Labels) -> float:
    """Share of the tested images that a linear probe is right about which was trained on other features.

    Args:
        features: [N, D] of the images that the probe is trained on.
        tested: [M, D] of those that it is tested on.
    """
    return float((_fit_probe(features, labels, None).predict(tested) == tested_labels).mean())


def recognise(real: Features, real_labels: Labels, fake: Features, labels: Labels) -> NDArray[np.bool_]:
    """Say of each generated image [M, D] whether a probe of real ones [N, D] takes it for its class, [M].

    The mean is the GAN-test of Shmelkov et al. 2018 (arXiv:1807.09499). Classes weigh alike in the probe's
    training, or it would take few images for one with few.
    """
    found: NDArray[np.bool_] = _fit_probe(real, real_labels, "balanced").predict(fake) == labels
    return found


def _fit_probe(features: Features, labels: Labels, class_weight: str | None) -> Pipeline:
    classifier = LogisticRegression(C=PROBE_PENALTY, max_iter=300, class_weight=class_weight)
    return make_pipeline(Normalizer(), classifier).fit(features, labels)
