"""Colour changes of the views: one colour matrix an image, and greyed-out rectangles."""

from __future__ import annotations

import math

import torch

LUMA = (0.299, 0.587, 0.114)
SMALLEST_ERASED, LARGEST_ERASED = 0.02, 0.33
"""Area of an erased rectangle, as a share of the view's."""

ERASED_ASPECT = 3.3
"""Largest ratio of an erased rectangle's sides. Both as published: https://arxiv.org/abs/1708.04896."""

GREY = 0.5
"""What is erased or lies outside the picture: nearly the mean of photographs."""


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


def erase_rectangle(view: torch.Tensor, draws: torch.Tensor, *, probability: float) -> torch.Tensor:
    """Grey out a rectangle of [B, 3, H, W] in some images.

    Args:
        draws: [B, 5] in [0, 1): whether, which area, where (vertically, horizontally), and which shape.
    """
    area = SMALLEST_ERASED + (LARGEST_ERASED - SMALLEST_ERASED) * draws[:, 1]
    stretch = torch.exp(0.5 * math.log(ERASED_ASPECT) * (2 * draws[:, 4] - 1))
    sides = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], dim=1).clamp(max=1)
    sides = torch.where(draws[:, :1] < probability, sides, 0.0)
    corners = draws[:, 2:4] * (1 - sides)
    erased = rectangle_mask(view.shape[-1], corners, sides)
    return view.masked_fill_(erased[:, None], GREY)


def rectangle_mask(size: int, corners: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """[B, size, size]: pixels whose centre is inside, given shares of the side, vertical first."""
    centres = (torch.arange(size, device=corners.device) + 0.5) / size
    starts, stops = corners[:, :, None], (corners + sides)[:, :, None]
    inside = (centres >= starts) & (centres < stops)
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def _turn_hue(angle: torch.Tensor) -> torch.Tensor:
    """Rotations about the grey axis (Rodrigues' formula), which leave greys as they are."""
    unit = torch.eye(3, device=angle.device)
    axis = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device
    ) / math.sqrt(3)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cosine * unit + (1 - cosine) / 3 + sine * axis
