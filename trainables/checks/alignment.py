"""Lays pairs of small grey pictures on each other, and says how much of one's detail is the other's.

A copy may be resized, slightly cropped, brighter or of more contrast. So each pair is aligned by Lucas and
Kanade's method (scale and shift along both axes, gain and offset), coarse to fine, many pairs at once.
In numpy, since torch's threads wait for each other at every small operation: beside other busy processes that
made it 10 times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.machine import count_cpus

Array = NDArray[np.floating[Any]]
"""Single precision throughout; numpy's types do not follow that."""

LEVELS = ((8, 0.7), (16, 0.6))
"""Side in pixels of the coarse levels, and the correlation below which a pair is given up there."""

STEPS = 4
"""Steps of each level; the next one starts near the end."""

FARTHEST = 0.15
"""Largest change of scale, and largest shift as a share of the side; 5 % cropped on every side need 0.11."""

STEP_LIMIT = 0.04
BATCH = 2**15
"""Pixels aligned at a time, so that they stay in the processor's cache."""

SMALLEST_DEVIATION = 0.3
"""Grey levels that rounding to whole numbers makes up: detail this faint is none."""

BLOCK = 8
"""Side in pixels of the blocks in which the pictures are compared by themselves."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well pairs agree once aligned; all arrays are [P, …], zero for pairs that were given up."""

    evidence: Array
    """Information in nats that one picture's detail has about the other's: hundreds for a copy."""

    correlation: Array
    """Correlation of the aligned pictures' detail, from -1 to 1."""

    weakest_block: Array
    """The lowest correlation among the blocks that have detail."""

    placement: Array
    """[P, 4] change of scale and shift of the first picture, across and down, as shares of the side."""


def compare_pairs(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    mirrored: NDArray[np.bool_],
    *,
    placement: Array | None = None,
) -> Agreement:
    """Align and compare grey pictures [P, W, W], the second ones mirrored where it says so.

    Args:
        placement: where a comparison of smaller pictures ended; alignment goes on from there.
    """
    side = first.shape[-1]
    reached = np.zeros((len(first), 4), np.float32) if placement is None else placement.copy()
    found = np.zeros((len(first), 3), np.float32)
    kept = np.arange(len(first))

    def run(level: _Level, side: int) -> Array:
        def work(rows: NDArray[np.int64]) -> Array:
            turned = np.where(mirrored[rows, None, None], second[rows, :, ::-1], second[rows])
            one = _shrink(first[rows].astype(np.float32), side)
            other = _shrink(turned.astype(np.float32), side)
            reached[rows] = _align(one, other, reached[rows])
            return level(*_place(one, reached[rows]), other)

        cuts = range(0, len(kept), max(1, BATCH // side**2))
        batches = [kept[start : start + cuts.step] for start in cuts]
        with ThreadPoolExecutor(count_cpus()) as pool:
            return np.concatenate([np.zeros((0, 3), np.float32), *pool.map(work, batches)])

    for coarse, promising in LEVELS if placement is None else ():
        if coarse < side:
            kept = kept[run(_glance, coarse)[:, 0] > promising]
    found[kept] = run(_judge, side)
    return Agreement(found[:, 0], found[:, 1], found[:, 2], reached)


_Level = Callable[[Array, Array, Array], Array]


def _align(pictures: Array, targets: Array, placement: Array) -> Array:
    """Improve the placement [P, 4] (change of scale and shift, first across, then down) by least squares."""
    side = pictures.shape[-1]
    across = _centres(side)
    down = across[:, None]
    system = np.empty((len(pictures), 6, side, side), np.float32)
    for _ in range(STEPS):
        moved, inside = _place(pictures, placement)
        system[:, 0], system[:, 1] = moved, 1
        system[:, 3] = _slope(moved) * side
        system[:, 5] = _slope(moved.swapaxes(1, 2)).swapaxes(1, 2) * side
        system[:, 2], system[:, 4] = system[:, 3] * across, system[:, 5] * down
        system *= inside[:, None]
        rows = system.reshape(len(pictures), 6, -1)
        normal = rows @ rows.swapaxes(1, 2)
        diagonal = np.einsum("pii->pi", normal)
        diagonal += 1e-3 * diagonal + 1e-3
        wanted = rows @ (targets * inside).reshape(len(pictures), -1, 1)
        solved = np.linalg.solve(normal, wanted)[:, :, 0]
        step = solved[:, 2:] / np.maximum(solved[:, :1], 0.2)
        placement = np.clip(placement + np.clip(step, -STEP_LIMIT, STEP_LIMIT), -FARTHEST, FARTHEST)
    return placement


def _place(pictures: Array, placement: Array) -> tuple[Array, Array]:
    """Scale and shift pictures: (the moved ones, 1 where a pixel comes from inside the picture, else 0)."""
    side = pictures.shape[-1]
    centres = _centres(side)
    across = ((1 + placement[:, 0:1]) * centres + placement[:, 1:2] + 0.5) * side - 0.5
    down = ((1 + placement[:, 2:3]) * centres + placement[:, 3:4] + 0.5) * side - 0.5
    moved = _weights(down) @ pictures @ _weights(across).swapaxes(1, 2)
    return moved, _is_inside(down)[:, :, None] * _is_inside(across)[:, None, :]


@cache
def _centres(side: int) -> Array:
    return (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - np.float32(0.5)


def _weights(positions: Array) -> Array:
    """Weights [P, W, W] of linear interpolation at positions [P, W] in pixels."""
    side = positions.shape[1]
    distance = np.clip(positions, 0, side - 1)[:, :, None] - np.arange(side, dtype=np.float32)
    return np.maximum(1 - np.abs(distance), 0)


def _is_inside(positions: Array) -> Array:
    return ((positions > -0.5) & (positions < positions.shape[1] - 0.5)).astype(np.float32)


def _slope(pictures: Array) -> Array:
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return (padded[:, :, 2:] - padded[:, :, :-2]) / 2


def _glance(moved: Array, inside: Array, targets: Array) -> Array:
    """The correlation of aligned pictures, in all three columns [P, 3]."""
    return np.repeat(_correlate(moved, targets, inside)[:, None], 3, axis=1)


def _judge(moved: Array, inside: Array, targets: Array) -> Array:
    """Evidence, correlation of the detail and the weakest block's, [P, 3], of aligned pictures."""
    evidence = np.zeros(len(moved), np.float32)
    for one, other in zip(_bands(moved), _bands(targets), strict=True):
        mask = (_shrink(inside, one.shape[-1]) > 0.99).astype(np.float32)
        share = np.clip(_correlate(one, other, mask), 0, 0.9999)
        evidence += -0.5 * np.log1p(-(share**2)) * _num_details(one, other, mask)
    one, other = _detail(moved), _detail(targets)
    columns = (evidence, _correlate(one, other, inside), _weakest_block(one, other, inside))
    return np.stack(columns, axis=1)


def _bands(pictures: Array) -> list[Array]:
    """Detail by size (a Laplacian pyramid), from the finest to what is left at less than 16 pixels a side."""
    bands = []
    while (side := pictures.shape[-1]) >= 16:
        smaller = _shrink(pictures, side // 2)
        bands.append(pictures - _enlarge(smaller, side))
        pictures = smaller
    return [*bands, pictures]


def _detail(pictures: Array) -> Array:
    """Pictures without what is left of them at a quarter of their side."""
    side = pictures.shape[-1]
    return pictures - _enlarge(_shrink(pictures, max(1, side // 4)), side)


def _shrink(pictures: Array, side: int) -> Array:
    """Average over areas."""
    if pictures.shape[-1] == side:
        return pictures
    areas = _areas(pictures.shape[-1], side)
    return areas @ pictures @ areas.T


@cache
def _areas(side: int, smaller: int) -> Array:
    """Share [smaller, side] of every pixel in every cell."""
    edges = np.arange(smaller + 1) * side / smaller
    pixels = np.arange(side)
    starts, ends = edges[:-1, None], edges[1:, None]
    shares = np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0, None)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def _enlarge(pictures: Array, side: int) -> Array:
    weights = _spread(pictures.shape[-1], side)
    return weights @ pictures @ weights.T


@cache
def _spread(side: int, larger: int) -> Array:
    """Weights [larger, side] of linear interpolation."""
    positions = (np.arange(larger) + 0.5) * side / larger - 0.5
    distance = np.clip(positions, 0, side - 1)[:, None] - np.arange(side)
    return np.maximum(1 - np.abs(distance), 0).astype(np.float32)


def _num_details(one: Array, other: Array, mask: Array) -> Array:
    """How many independent values [P] a band has: few where all detail stands in a few pixels.

    The participation ratio of the energy, times 3, is the number of pixels for a band of normal noise. A band
    above the last keeps three of four of its pixels' values: one is the next band's.
    """
    energy = np.abs(one * other) * mask
    ratio = 3 * energy.sum((1, 2)) ** 2 / np.maximum((energy**2).sum((1, 2)), 1e-6)
    details: Array = 0.75 * np.minimum(ratio, mask.sum((1, 2)))
    return details


def _correlate(one: Array, other: Array, mask: Array) -> Array:
    """Correlation [P] of pictures inside the mask; detail as faint as the rounding counts as noise."""
    count = np.maximum(mask.sum((-2, -1), keepdims=True), 1)
    one = (one - (one * mask).sum((-2, -1), keepdims=True) / count) * mask
    other = (other - (other * mask).sum((-2, -1), keepdims=True) / count) * mask
    noise = SMALLEST_DEVIATION**2 * count[..., 0, 0]
    norms = ((one**2).sum((-2, -1)) + noise) * ((other**2).sum((-2, -1)) + noise)
    correlation: Array = (one * other).sum((-2, -1)) / np.sqrt(norms)
    return correlation


def _weakest_block(one: Array, other: Array, inside: Array) -> Array:
    """The lowest correlation [P] of a block that has at least a quarter of the usual detail in either."""
    across = one.shape[-1] // BLOCK
    if across < 2:
        return _correlate(one, other, inside)
    mask = _blocks(inside, across)
    one, other = _blocks(one, across) * mask, _blocks(other, across) * mask
    energy = np.maximum((one**2).sum((-2, -1)), (other**2).sum((-2, -1)))
    busy = energy >= 0.25 * energy.mean(1, keepdims=True)
    weakest: Array = np.where(busy, _correlate(one, other, mask), 1).min(1)
    return weakest


def _blocks(pictures: Array, across: int) -> Array:
    """Blocks [P, across x across, w, w] of pictures."""
    width = pictures.shape[-1] // across
    cut = pictures[:, : across * width, : across * width].reshape(-1, across, width, across, width)
    return cut.swapaxes(2, 3).reshape(-1, across**2, width, width)
