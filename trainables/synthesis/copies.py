"""Finds generated images that are copies of real ones: a GAN of few images may have learned them by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

from trainables.synthesis.features import Pixels

SIDE = 16
"""Side in pixels of the pictures that are compared: in finer detail a GAN's copies differ."""

NEAR = 0.4
"""A generated image is a copy where its distance from a real one, as a share of the usual distance of that
image's class, is below this.

Usual is the median distance of a real image from the nearest other one. `python -m benchmarks gan_quality
copies` has the rates of SIDE and NEAR on six data sets: nearly all copies that are blurred, noisy, mirrored
or of another colour or contrast are found, and of real images that were left out 0 to 1.3 % are taken for
copies (5 % of magnetic_tile, which has photos of one tile). Copies that are shifted by 3 % of the side are
mostly missed.
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
    """As a share of the usual distance: 0 = the same picture."""


class CopyFinder:
    """The real images, and how far they are from each other."""

    def __init__(self, pixels: Pixels, labels: NDArray[np.int64]) -> None:
        """Measure the usual distances.

        Args:
            pixels: the real images [N, S, S, 3].
            labels: their classes, [N].
        """
        own = shrink(pixels)
        rows = np.random.default_rng(0).permutation(len(labels))[:MOST_ASKED]
        self._usual = _usual_distances(own, labels, rows)
        self._pictures = np.concatenate([own, shrink(pixels[:, :, ::-1])])

    def find(self, pixels: Pixels) -> list[Copy]:
        """Find the copies among generated images [M, S, S, 3], in their order."""
        if not len(pixels):
            return []
        nearest, distances = pairwise_distances_argmin_min(shrink(pixels), self._pictures)
        real = nearest % len(self._usual)  # the second half are mirrored images
        distances = distances / self._usual[real]
        return [
            Copy(int(at), int(real[at]), round(float(distances[at]), 3))
            for at in np.flatnonzero(distances < NEAR)
        ]


def shrink(pixels: Pixels) -> NDArray[np.float32]:
    """Grey pictures of SIDE pixels or less a side, [N, SIDE * SIDE], each with mean 0 and length 1.

    So neither colour nor contrast counts, which the GAN's augmentation teaches it to vary.
    """
    side = min(SIDE, pixels.shape[1])
    small = [
        np.asarray(Image.fromarray(one).convert("L").resize((side, side), Image.Resampling.BOX))
        for one in np.ascontiguousarray(pixels)
    ]
    rows = np.stack(small).reshape(len(pixels), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)


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
