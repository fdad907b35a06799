"""Finds near copies among images: encoded anew, resized, slightly cropped, mirrored, brighter or darker.

Candidates are each image's nearest neighbours by a small descriptor; alignment then decides each pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.machine import count_cpus
from trainables.checks.alignment import Agreement, compare_pairs
from trainables.images.store import Images

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

SIDE, FINE_SIDE = 32, 64
"""Side in pixels of the grey pictures of all images, and of those whose pairs look like copies at 32."""

GREY, CHROMA = 8, 4
"""Cells along a side of the descriptor's brightness and of each of its two colours."""

CHROMA_WEIGHT = 2.0
NEIGHBOURS = 6
"""Candidates for each image. Of 800 planted copies in four sets the original was always among the first 5."""

SMALLEST_SIMILARITY = 0.6
"""Least cosine of the descriptors of a candidate pair. The lowest of the 800 planted copies had 0.68."""

LIKELY, WEAKEST_LIKELY = 80.0, 0.0
"""Evidence and weakest block at 32 pixels from which a pair is compared at 64."""

SURE = 350.0
"""Evidence in nats from which a pair is a copy, at 64 pixels. Of planted copies 98 % had 450 and, but for
plain fields seen from the air, 700; different photos of one kind of thing (puffs of dandelions) up to 280."""

WEAKEST_BLOCK, WEAKEST_SMALL = 0.18, 0.35
"""Correlation that every block with detail must reach, at 64 pixels and where there are not so many. Of
planted copies 97 % or more do; of scenes with another object, a third as wide, on the same ground 10 %."""

FAINT, FAINT_BLOCK = 200.0, 0.35
"""The same at 64 pixels for pictures of little detail: less evidence suffices where all blocks agree more."""

READ, BLOCK = 64, 2**24
"""Images read at a time, and similarities computed at a time: 64 MB."""


@dataclass(frozen=True)
class NearCopy:
    """Two rows of the image store that show the same picture."""

    first: int
    second: int
    similarity: float
    """Correlation of the detail once aligned, at most 1."""


def find_near_copies(
    images: Images, rows: Sequence[int] | Rows, *, progress: Progress | None = None
) -> list[NearCopy]:
    """Find all pairs of near copies among these rows of an image store [N, S, S, 3], in order of the rows.

    Args:
        progress: called with (images read, images in all).
    """
    wanted = np.asarray(rows, dtype=np.int64)
    if len(wanted) < 2:
        return []
    pictures, descriptors = _read(images, wanted, progress)
    pairs, mirrored = _find_candidates(descriptors)
    agreement = compare_pairs(pictures[pairs[:, 0]], pictures[pairs[:, 1]], mirrored)
    likely = (agreement.evidence >= LIKELY) & (agreement.weakest_block >= WEAKEST_LIKELY)
    pairs = wanted[pairs[likely]]
    if images.shape[1] > SIDE:
        agreement = _compare_fine(images, pairs, mirrored[likely], agreement.placement[likely])
        likely = np.ones(len(pairs), dtype=np.bool_)
    evidence, weakest = agreement.evidence[likely], agreement.weakest_block[likely]
    sure = _is_sure(evidence, weakest, side=images.shape[1])
    found = zip(pairs[sure].tolist(), agreement.correlation[likely][sure].tolist(), strict=True)
    return sorted(
        (NearCopy(min(pair), max(pair), round(min(1.0, similarity), 3)) for pair, similarity in found),
        key=lambda copy: (copy.first, copy.second),
    )


def _is_sure(
    evidence: NDArray[np.floating[Any]], weakest: NDArray[np.floating[Any]], *, side: int
) -> NDArray[np.bool_]:
    """Which pairs are copies, of images of this side in pixels.

    Small images hold less evidence, and less of what is alike by chance too: different digits of 8 pixels
    have up to 91 of the 131 needed, different photos of 32 up to 275 of 299.
    """
    if side < FINE_SIDE:
        return (evidence >= min(SURE, 75.0 + 7.0 * side)) & (weakest >= WEAKEST_SMALL)
    faint = (evidence >= FAINT) & (weakest >= FAINT_BLOCK)
    return faint | ((evidence >= SURE) & (weakest >= WEAKEST_BLOCK))


def _compare_fine(
    images: Images, pairs: Rows, mirrored: NDArray[np.bool_], placement: NDArray[np.float32]
) -> Agreement:
    """Compare pairs [P, 2] of rows once more, in pictures of up to 64 pixels a side."""
    rows, where = np.unique(pairs, return_inverse=True)
    where = where.reshape(pairs.shape)
    side = min(FINE_SIDE, images.shape[1])
    pictures = np.empty((len(rows), side, side), dtype=np.uint8)
    for at, row in enumerate(rows):
        pictures[at] = _shrink(images[row], side)[..., 0]
    return compare_pairs(pictures[where[:, 0]], pictures[where[:, 1]], mirrored, placement=placement)


def _read(images: Images, rows: Rows, progress: Progress | None) -> tuple[NDArray[np.uint8], Floats]:
    """Grey pictures [N, W, W], W <= 32, and descriptors [N, 96] of unit length."""
    side = min(SIDE, images.shape[1])
    pictures = np.empty((len(rows), side, side), dtype=np.uint8)
    descriptors = np.empty((len(rows), GREY**2 + 2 * CHROMA**2), dtype=np.float32)

    def read(start: int) -> int:
        small = np.stack([_shrink(image, side) for image in images[rows[start : start + READ]]])
        pictures[start : start + READ] = small[..., 0]
        descriptors[start : start + READ] = _describe(small)
        return len(small)

    with ThreadPoolExecutor(count_cpus()) as pool:
        done = 0
        for number in pool.map(read, range(0, len(rows), READ)):
            done += number
            if progress:
                progress(done, len(rows))
    return pictures, descriptors


def _shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image [S, S, 3] as brightness and two colours [side, side, 3], averaged over areas."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX, reducing_gap=1.0)
    return np.asarray(small.convert("YCbCr"))


def _describe(small: NDArray[np.uint8]) -> Floats:
    """Descriptors of unit length: cells without their mean, brightness and colours.

    The first half of each holds what stays when the image is mirrored, the second what changes its sign.
    """
    planes = small.astype(np.float32).transpose(3, 0, 1, 2)
    weights = ((GREY, 1.0), (CHROMA, CHROMA_WEIGHT), (CHROMA, CHROMA_WEIGHT))
    even, odd = [], []
    for plane, (cells, weight) in zip(planes, weights, strict=True):
        average = _averaging(cells, plane.shape[1])
        grid = average @ plane @ average.T
        grid = weight * (grid - grid.mean((1, 2), keepdims=True))
        left, right = grid[:, :, : cells // 2], grid[:, :, ::-1][:, :, : cells // 2]
        even.append((left + right).reshape(len(grid), -1) / np.float32(2**0.5))
        odd.append((left - right).reshape(len(grid), -1) / np.float32(2**0.5))
    found = np.concatenate([*even, *odd], axis=1)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1.0)


def _averaging(cells: int, side: int) -> Floats:
    """Matrix [cells, side] that averages a row of pixels over cells, which share pixels that they cut."""
    matrix = np.zeros((cells, side), dtype=np.float32)
    for cell in range(cells):
        first, last = cell * side // cells, -(-(cell + 1) * side // cells)
        matrix[cell, first:last] = 1 / (last - first)
    return matrix


def _find_candidates(descriptors: Floats) -> tuple[Rows, NDArray[np.bool_]]:
    """Pairs [P, 2] of positions, the smaller first, and which of them are alike mirrored.

    Mirrored similarity costs nothing: with half the descriptor even and half odd, the two similarities are
    the sum and the difference of the halves' products.
    """
    pairs, mirrored = [], []
    for start, similarity, odd in _similarities(descriptors):
        own = np.arange(len(similarity))
        similarity[own, start + own] = -1
        for _ in range(min(NEIGHBOURS, similarity.shape[1] - 1)):
            near = similarity.argmax(axis=1)
            alike = np.flatnonzero(similarity[own, near] > SMALLEST_SIMILARITY)
            pairs.append(np.stack([start + own[alike], near[alike]], axis=1))
            mirrored.append(odd[own[alike], near[alike]] < 0)
            similarity[own, near] = -1
    found = np.sort(np.concatenate(pairs), axis=1)
    unique, where = np.unique(found, axis=0, return_index=True)
    return unique, np.concatenate(mirrored)[where]


def _similarities(descriptors: Floats) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield (first row, similarity mirrored or not, the odd halves' products), block by block."""
    even, odd = np.split(descriptors, 2, axis=1)
    height = max(16, min(1024, BLOCK // len(descriptors)))
    for start in range(0, len(descriptors), height):
        rows = slice(start, start + height)
        products = odd[rows] @ odd.T
        yield start, even[rows] @ even.T + np.abs(products), products
