"""RandAugment and TrivialAugment: each operation is applied to those images of a batch that drew it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Operation = Callable[[Tensor, Tensor], Tensor]
"""Maps views [B, 3, H, W] and a signed strength for each [B] to the changed views."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value."""

GREY = 0.5
"""What is erased or lies outside the picture: nearly the mean of photographs."""

NUM_LEVELS = 31
"""Number of strength levels: they are counted 0 to 30, as published."""

_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_SIGNED = (*_MOVES, "brightness", "saturation", "contrast", "sharpness")
OPERATIONS = ("identity", *_SIGNED, "posterize", "solarize", "autocontrast", "equalize")


@dataclass(frozen=True, kw_only=True)
class OperationPolicy:
    """How many operations an image gets, and how strong they are."""

    num_operations: int
    level: int | None
    """Strength level of all operations; None = drawn for each image, all levels alike."""

    largest: dict[str, float]
    """Operation -> strength at the highest level: share of the side, degrees, relative change, or bits."""


def _largest(shear: float, translate: float, degrees: float, change: float, bits: int) -> dict[str, float]:
    changes = dict.fromkeys(("brightness", "saturation", "contrast", "sharpness"), change)
    moves = {"shear_x": shear, "shear_y": shear, "translate_x": translate, "translate_y": translate}
    return {"rotate": degrees, "posterize": bits, "solarize": 1.0} | moves | changes


OPERATION_POLICIES = {
    # https://arxiv.org/abs/1909.13719 with torchvision's defaults: N = 2, M = 9.
    "randaugment": OperationPolicy(num_operations=2, level=9, largest=_largest(0.3, 150 / 331, 30, 0.9, 4)),
    # https://arxiv.org/abs/2103.10158, wide: 32 px of 224 are a seventh.
    "trivialaugment": OperationPolicy(
        num_operations=1, level=None, largest=_largest(0.99, 1 / 7, 135, 0.99, 6)
    ),
}


def apply_operations(view: Tensor, draws: Tensor, name: Literal["randaugment", "trivialaugment"]) -> Tensor:
    """Apply the named policy to views [B, 3, H, W] in [0, 1], in place.

    Args:
        draws: [B, 6] in [0, 1), on the CPU: operation, level and sign of up to two operations.
    """
    chosen = OPERATION_POLICIES[name]
    for number in range(chosen.num_operations):
        operations, levels, signs = draws[:, 3 * number : 3 * number + 3].unbind(1)
        numbers = (operations * len(OPERATIONS)).long()
        levels = (levels * NUM_LEVELS).floor()
        if chosen.level is not None:
            levels = torch.full_like(levels, chosen.level)
        for group in _groups():
            _apply_group(view, group, numbers, levels / (NUM_LEVELS - 1), signs < 0.5, chosen.largest)
    return view


def _groups() -> tuple[tuple[str, ...], ...]:
    """Group the operations that one call can apply: all that only move pixels, and each other one alone."""
    return (_MOVES, *((name,) for name in OPERATIONS if name != "identity" and name not in _MOVES))


def _apply_group(
    view: Tensor,
    group: tuple[str, ...],
    numbers: Tensor,
    levels: Tensor,
    negative: Tensor,
    largest: dict[str, float],
) -> None:
    """Apply the operations of a group to the images that drew one of them."""
    first = OPERATIONS.index(group[0])
    rows = torch.nonzero((numbers >= first) & (numbers < first + len(group))).squeeze(1)
    if not len(rows):
        return
    reach = torch.tensor([largest.get(name, 0.0) for name in group])
    strengths = levels[rows] * reach[numbers[rows] - first]
    if group[0] in _SIGNED:
        strengths = torch.where(negative[rows], -strengths, strengths)
    where = rows.to(view.device)
    if group == _MOVES:
        pairs = zip(numbers[rows] - first, strengths.tolist(), strict=True)
        matrices = torch.tensor([matrix_of(group[number], strength) for number, strength in pairs])
        view[where] = move(view[where], matrices.to(view.device))
    else:
        view[where] = _OPERATIONS[group[0]](view[where], strengths.to(view.device))


def move(view: Tensor, matrices: Tensor) -> Tensor:
    """Resample views by affine matrices [B, 2, 3], which map a position of the result to one of the view.

    Positions are shares of the side, from the top left corner; what lies outside is grey.
    """
    size = view.shape[-1]
    centres = (torch.arange(size, device=view.device) + 0.5) / size
    across, down = centres[None, None, :], centres[None, :, None]
    cells = matrices[:, :, :, None, None]
    sources = cells[:, :, 0] * across[:, None] + cells[:, :, 1] * down[:, None] + cells[:, :, 2]
    grid = (2 * sources - 1).permute(0, 2, 3, 1)
    moved = functional.grid_sample(
        view - GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.add_(GREY)


def matrix_of(name: str, strength: float) -> list[list[float]]:
    """Affine matrix that maps a position of the result to its source. Shears fix the top left corner."""
    cosine, sine = math.cos(math.radians(strength)), math.sin(math.radians(strength))
    matrices: dict[str, list[list[float]]] = {
        "shear_x": [[1, strength, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [strength, 1, 0]],
        "translate_x": [[1, 0, strength], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, strength]],
        "rotate": [[cosine, -sine, (1 - cosine + sine) / 2], [sine, cosine, (1 - cosine - sine) / 2]],
    }
    return matrices[name]


def _blend(base: Tensor, view: Tensor, change: Tensor) -> Tensor:
    """Interpolate from `base` (change -1) to the view (0), and extrapolate beyond it (above 0)."""
    return torch.lerp(base, view, 1 + change[:, None, None, None]).clamp_(0, 1)


def brighten(view: Tensor, change: Tensor) -> Tensor:
    return _blend(torch.zeros_like(view), view, change)


def saturate(view: Tensor, change: Tensor) -> Tensor:
    return _blend(_grey(view).expand_as(view), view, change)


def contrast(view: Tensor, change: Tensor) -> Tensor:
    return _blend(_grey(view).mean((2, 3), keepdim=True).expand_as(view), view, change)


def sharpen(view: Tensor, change: Tensor) -> Tensor:
    """Move away from a slightly blurred view, or towards it (negative); the outermost pixels stay."""
    # A kernel of ones with 5 in the middle; sums of slices take less than half of a convolution's time.
    rows = view[:, :, :-2] + view[:, :, 1:-1] + view[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = view.clone()
    blurred[:, :, 1:-1, 1:-1] = torch.add(around, view[:, :, 1:-1, 1:-1], alpha=4) / 13
    return _blend(blurred, view, change)


def posterize(view: Tensor, left_out: Tensor) -> Tensor:
    """Keep only the highest bits of every value."""
    steps = (2 ** left_out.round())[:, None, None, None]
    return ((_to_levels(view) / steps).floor() * steps).div_(255)


def solarize(view: Tensor, strength: Tensor) -> Tensor:
    """Turn bright values into their negative: none at strength 0, all at 1."""
    return torch.where(view >= (1 - strength)[:, None, None, None], 1 - view, view)


def autocontrast(view: Tensor, _: Tensor) -> Tensor:
    """Stretch each colour of each image to the whole range."""
    lowest, highest = view.amin((2, 3), keepdim=True), view.amax((2, 3), keepdim=True)
    width = highest - lowest
    return torch.where(width > 0, (view - lowest) / width.clamp(min=1e-6), view).clamp_(0, 1)


def equalize(view: Tensor, _: Tensor) -> Tensor:
    """Spread each colour's levels so that all are about equally frequent, as Pillow does."""
    levels = _to_levels(view).long().flatten(2).flatten(0, 1)
    counts = torch.zeros(len(levels), 256, device=view.device, dtype=torch.long)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    highest = levels.amax(1, keepdim=True)
    step = (levels.shape[1] - counts.gather(1, highest)) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=view.device))
    return table.gather(1, levels).view(view.shape).to(view.dtype).div_(255)


def _grey(view: Tensor) -> Tensor:
    return (view * torch.tensor(LUMA, device=view.device)[:, None, None]).sum(1, keepdim=True)


def _to_levels(view: Tensor) -> Tensor:
    return (view * 255).round_()


_OPERATIONS: dict[str, Operation] = {
    "brightness": brighten,
    "saturation": saturate,
    "contrast": contrast,
    "sharpness": sharpen,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
