"""Finds generated images that are copies of real ones: a GAN of few images may have learned them by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

from trainables.synthesis.features import Features, Pixels

SIDE = 32
"""Side in pixels of the pictures that are compared: finer detail is where a GAN's copies differ."""

NEAR, NEAR_FEATURES, SAME = 0.5, 0.7, 0.3
"""A generated image is a copy where its distance from a real one, as a share of the usual distance of that
image's class, is below NEAR in pixels and below NEAR_FEATURES in features, or below SAME in pixels.

Usual is the median distance of a real image from the nearest other one. The three were chosen on 960 real
images each of digits (32 px), flowers5 and beans (64 px), with an earlier form of this rule that took the
nearest image by features and one median for all classes: of copies that were blurred, shifted by a pixel or
changed in contrast, NEAR and NEAR_FEATURES found 58 to 100 %, but of digits shifted by a pixel 4 %; of 240
real images that were left out, they took 0 to 0.4 % for copies. SAME is for copies with noise, which
changes features much. The rates of the rule as it stands have not been measured.
"""

MOST_ASKED = 4000
"""Real images, at random, whose nearest other one is looked for to find the usual distances."""


@dataclass(frozen=True)
class Copy:
    """A generated image and the real one that it repeats."""

    generated: int
    """Position among the generated images."""

    real: int
    """Position among the real images."""

    distance: float
    """In pixels, as a share of the usual distance: 0 = the same picture."""


class CopyFinder:
    """The real images, and how far they are from each other."""

    def __init__(self, pixels: Pixels, features: Features, labels: NDArray[np.int64]) -> None:
        """Measure the usual distances.

        Args:
            pixels: the real images [N, S, S, 3].
            features: of the same images, [N, D].
            labels: their classes, [N].
        """
        self._pictures, self._features = shrink(pixels), features
        rows = np.random.default_rng(0).permutation(len(labels))[:MOST_ASKED]
        self._usual, self._usual_features = (
            _usual_distances(vectors, labels, rows) for vectors in (self._pictures, features)
        )

    def find(self, pixels: Pixels, features: Features) -> list[Copy]:
        """Find the copies among generated images [M, S, S, 3] with features [M, D], in their order."""
        if not len(pixels):
            return []
        pictures = shrink(pixels)
        real, distances = pairwise_distances_argmin_min(pictures, self._pictures)
        distances = distances / self._usual[real]
        by_features = np.linalg.norm(features - self._features[real], axis=1) / self._usual_features[real]
        is_copy = (distances < SAME) | ((distances < NEAR) & (by_features < NEAR_FEATURES))
        return [
            Copy(int(at), int(real[at]), round(float(distances[at]), 3)) for at in np.flatnonzero(is_copy)
        ]


def shrink(pixels: Pixels) -> NDArray[np.float32]:
    """Pictures of SIDE pixels or less a side as rows of numbers, [N, SIDE * SIDE * 3]."""
    side = min(SIDE, pixels.shape[1])
    small = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BOX)) for one in pixels]
    return np.stack(small).reshape(len(pixels), -1).astype(np.float32)


def _usual_distances(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The usual distance for each of the vectors [N, D]: its class's median to the nearest other, never 0.

    Args:
        rows: those whose nearest other one is looked for; a class without any has the median of all.
    """
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(vectors)
    nearest = search.kneighbors(vectors[rows])[0][:, 1]  # 0 is the image itself, or its equal
    usual = np.full(len(vectors), np.median(nearest))
    for label in np.unique(labels[rows]):
        usual[labels == label] = np.median(nearest[labels[rows] == label])
    return np.maximum(usual, 1e-6)
