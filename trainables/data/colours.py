"""Colour changes of the views: one colour matrix an image, and greyed-out squares."""

from __future__ import annotations

import math

import torch

LUMA = (0.299, 0.587, 0.114)
SMALLEST_SQUARE, LARGEST_SQUARE = 0.15, 0.45
"""Side of an erased square, as a share of the view's: 2 to 20 % of its area."""


def adjust_colours(
    view: torch.Tensor,
    draws: torch.Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> torch.Tensor:
    """Change saturation, hue, brightness and contrast of [B, 3, H, W], in this order.

    All four are linear in the colours: one matrix and one offset an image. Values are clipped once,
    at the end, where torchvision clips after each.

    Args:
        draws: [B, 4] in [0, 1), in the order of the arguments.
    """
    factors = 1 + (2 * draws - 1) * torch.tensor([brightness, contrast, saturation, 0.0], device=view.device)
    luma = torch.tensor(LUMA, device=view.device)
    unit = torch.eye(3, device=view.device)
    saturate = factors[:, 2, None, None] * unit + (1 - factors[:, 2, None, None]) * luma
    matrix = _turn_hue(2 * math.pi * hue * (2 * draws[:, 3] - 1)) @ saturate * factors[:, 0, None, None]
    mean_grey = (matrix @ view.mean((2, 3))[:, :, None]).squeeze(2) @ luma
    offset = (1 - factors[:, 1]) * mean_grey
    pixels = torch.baddbmm(offset[:, None, None], factors[:, 1, None, None] * matrix, view.flatten(2))
    return pixels.clamp_(0, 1).view_as(view)


def erase_square(view: torch.Tensor, draws: torch.Tensor, *, probability: float) -> torch.Tensor:
    """Grey out a square of [B, 3, H, W] in some images.

    Args:
        draws: [B, 4] in [0, 1): whether, how large, and where (vertically, horizontally).
    """
    size = view.shape[-1]
    side = SMALLEST_SQUARE + (LARGEST_SQUARE - SMALLEST_SQUARE) * draws[:, 1]
    side = torch.where(draws[:, 0] < probability, side, 0.0)
    centres = (torch.arange(size, device=view.device) + 0.5) / size
    starts = draws[:, 2:] * (1 - side[:, None])
    inside = (centres >= starts[:, :, None]) & (centres < (starts + side[:, None])[:, :, None])
    erased = inside[:, 0, :, None] & inside[:, 1, None, :]
    return view.masked_fill_(erased[:, None], 0.5)


def _turn_hue(angle: torch.Tensor) -> torch.Tensor:
    """Rotations about the grey axis (Rodrigues' formula), which leave greys as they are."""
    unit = torch.eye(3, device=angle.device)
    axis = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device
    ) / math.sqrt(3)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cosine * unit + (1 - cosine) / 3 + sine * axis
