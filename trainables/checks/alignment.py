"""Lays pairs of small grey pictures on each other, and says how much of one's detail is the other's.

A copy may be resized, slightly cropped, brighter or of more contrast. So each pair is aligned by Lucas and
Kanade's method (scale and shift along both axes, gain and offset), coarse to fine, many pairs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

COARSE = 16
"""Side in pixels of the first level: there a crop of a tenth is less than two pixels."""

STEPS = 6
"""Steps of the first level; the next one, which starts near the end, takes as many."""

FARTHEST = 0.15
"""Largest change of scale, and largest shift as a share of the side; 5 % cropped on every side need 0.11."""

STEP_LIMIT = 0.04
PROMISING = 0.6
"""Correlation at the first level below which a pair is given up."""

PAIRS = 512
"""Pairs aligned at a time: 100 MB."""

SMALLEST_DEVIATION = 0.3
"""Grey levels that rounding to whole numbers makes up: detail this faint is none."""

BLOCKS = 4
"""Blocks along a side in which the pictures are compared by themselves."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well pairs agree once aligned; all arrays are [P], zero for pairs that were given up."""

    evidence: NDArray[np.float32]
    """Information in nats that one picture's detail has about the other's: hundreds for a copy."""

    correlation: NDArray[np.float32]
    """Of the aligned pictures' detail, from -1 to 1."""

    weakest_block: NDArray[np.float32]
    """The lowest correlation among the blocks that have detail."""

    placement: NDArray[np.float32]
    """[P, 4] change of scale and shift of the first picture, across and down, as shares of the side."""


def compare_pairs(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    mirrored: NDArray[np.bool_],
    *,
    placement: NDArray[np.float32] | None = None,
) -> Agreement:
    """Align and compare grey pictures [P, W, W], the second ones mirrored where it says so.

    Args:
        placement: where a comparison of smaller pictures ended; alignment goes on from there.
    """
    parts = []
    for rows in (slice(start, start + PAIRS) for start in range(0, len(first), PAIRS)):
        begin = None if placement is None else placement[rows]
        parts.append(_compare(first[rows], second[rows], mirrored[rows], begin))
    columns = np.concatenate(parts) if parts else np.zeros((0, 7), np.float32)
    return Agreement(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3:])


@torch.no_grad()
def _compare(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    mirrored: NDArray[np.bool_],
    begin: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    one, other = torch.from_numpy(first).float(), torch.from_numpy(second).float()
    other = torch.where(torch.from_numpy(mirrored)[:, None, None], other.flip(2), other)
    kept = torch.arange(len(one))
    placement = torch.zeros(len(one), 4) if begin is None else torch.from_numpy(begin)
    found = torch.zeros(len(one), 7)
    side = one.shape[-1]
    for level in [COARSE, side] if begin is None and side > COARSE else [side]:
        small, target = _shrink(one[kept], level), _shrink(other[kept], level)
        placement = _align(small, target, placement)
        moved, inside = _place(small, placement)
        promising = _correlate(moved, target, inside) > PROMISING
        kept, placement = kept[promising], placement[promising]
        moved, inside, target = moved[promising], inside[promising], target[promising]
    if len(kept):
        found[kept] = torch.cat([_judge(moved, target, inside), placement], 1)
    return found.numpy()


def _shrink(pictures: Tensor, side: int) -> Tensor:
    return F.interpolate(pictures[:, None], size=(side, side), mode="area")[:, 0]


def _align(pictures: Tensor, targets: Tensor, placement: Tensor) -> Tensor:
    """Improve the placement [P, 4] (change of scale and shift, first across, then down) by least squares."""
    side = pictures.shape[-1]
    across = _centres(side)
    down = across[:, None]
    for _ in range(STEPS):
        moved, inside = _place(pictures, placement)
        slope_across = _slope(moved) * side
        slope_down = _slope(moved.transpose(1, 2)).transpose(1, 2) * side
        changes = (
            moved,
            torch.ones_like(moved),
            slope_across * across,
            slope_across,
            slope_down * down,
            slope_down,
        )
        system = (torch.stack(changes, 1) * inside[:, None]).flatten(2)
        normal = system @ system.transpose(1, 2)
        damping = torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-3)
        wanted = system @ (targets * inside).flatten(1)[:, :, None]
        solved = torch.linalg.solve(normal + damping, wanted)[:, :, 0]
        gain = solved[:, :1].clamp(min=0.2)
        placement = placement + (solved[:, 2:] / gain).clamp(-STEP_LIMIT, STEP_LIMIT)
        placement = placement.clamp(-FARTHEST, FARTHEST)
    return placement


def _place(pictures: Tensor, placement: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift pictures: (the moved ones, 1 where a pixel comes from inside the picture, else 0)."""
    side = pictures.shape[-1]
    centres = _centres(side)
    across = ((1 + placement[:, 0:1]) * centres + placement[:, 1:2] + 0.5) * side - 0.5
    down = ((1 + placement[:, 2:3]) * centres + placement[:, 3:4] + 0.5) * side - 0.5
    moved = _weights(down) @ pictures @ _weights(across).transpose(1, 2)
    return moved, _is_inside(down)[:, :, None] * _is_inside(across)[:, None, :]


def _centres(side: int) -> Tensor:
    return (torch.arange(side) + 0.5) / side - 0.5


def _weights(positions: Tensor) -> Tensor:
    """Weights [P, W, W] of linear interpolation at positions [P, W] in pixels."""
    side = positions.shape[1]
    distance = positions.clamp(0, side - 1)[:, :, None] - torch.arange(side)
    return (1 - distance.abs()).clamp_(min=0)


def _is_inside(positions: Tensor) -> Tensor:
    return ((positions > -0.5) & (positions < positions.shape[1] - 0.5)).float()


def _slope(pictures: Tensor) -> Tensor:
    padded = F.pad(pictures, (1, 1), mode="replicate")
    return (padded[:, :, 2:] - padded[:, :, :-2]) / 2


def _judge(moved: Tensor, targets: Tensor, inside: Tensor) -> Tensor:
    """Evidence, correlation of the detail and the weakest block's, [P, 3], of aligned pictures."""
    evidence = torch.zeros(len(moved))
    for one, other in zip(_bands(moved), _bands(targets), strict=True):
        mask = (_shrink(inside, one.shape[-1]) > 0.99).float()
        share = _correlate(one, other, mask).clamp(0, 0.9999)
        evidence += -0.5 * torch.log1p(-(share**2)) * _num_details(one, other, mask)
    one, other = _detail(moved), _detail(targets)
    return torch.stack([evidence, _correlate(one, other, inside), _weakest_block(one, other, inside)], 1)


def _bands(pictures: Tensor) -> list[Tensor]:
    """Detail by size (a Laplacian pyramid), from the finest to what is left at 8 pixels a side or less."""
    bands = []
    while (side := pictures.shape[-1]) >= COARSE:
        smaller = _shrink(pictures, side // 2)
        bands.append(pictures - _enlarge(smaller, side))
        pictures = smaller
    return [*bands, pictures]


def _detail(pictures: Tensor) -> Tensor:
    """Pictures without what is left of them at a quarter of their side."""
    side = pictures.shape[-1]
    return pictures - _enlarge(_shrink(pictures, max(1, side // 4)), side)


def _enlarge(pictures: Tensor, side: int) -> Tensor:
    larger = F.interpolate(pictures[:, None], size=(side, side), mode="bilinear", align_corners=False)
    return larger[:, 0]


def _num_details(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """How many independent values a band has: few where all detail stands in a few pixels.

    The participation ratio of the energy, times 3, is the number of pixels for a band of normal noise. A band
    above the last keeps three of four of its pixels' values: one is the next band's.
    """
    energy = (one.abs() * other.abs()) * mask
    ratio = 3 * energy.sum((1, 2)) ** 2 / (energy**2).sum((1, 2)).clamp(min=1e-6)
    return 0.75 * torch.minimum(ratio, mask.sum((1, 2)))


def _correlate(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Correlation [P] of pictures inside the mask; detail as faint as the rounding counts as noise."""
    count = mask.sum((-2, -1), keepdim=True).clamp(min=1)
    one = (one - (one * mask).sum((-2, -1), keepdim=True) / count) * mask
    other = (other - (other * mask).sum((-2, -1), keepdim=True) / count) * mask
    noise = SMALLEST_DEVIATION**2 * count[..., 0, 0]
    norms = ((one**2).sum((-2, -1)) + noise) * ((other**2).sum((-2, -1)) + noise)
    return (one * other).sum((-2, -1)) / norms.sqrt()


def _weakest_block(one: Tensor, other: Tensor, inside: Tensor) -> Tensor:
    """The lowest correlation [P] of a block that has at least a quarter of the usual detail in either."""
    side = one.shape[-1] // BLOCKS * BLOCKS
    if side < 4 * BLOCKS:
        return _correlate(one, other, inside)
    mask = _blocks(inside, side)
    one, other = _blocks(one, side) * mask, _blocks(other, side) * mask
    energy = torch.maximum((one**2).sum((-2, -1)), (other**2).sum((-2, -1)))
    busy = energy >= 0.25 * energy.mean(1, keepdim=True)
    return torch.where(busy, _correlate(one, other, mask), 1.0).amin(1)


def _blocks(pictures: Tensor, side: int) -> Tensor:
    """Blocks [P, 16, w, w] of pictures."""
    width = side // BLOCKS
    cut = pictures[:, :side, :side].unfold(1, width, width).unfold(2, width, width)
    return cut.flatten(1, 2)
