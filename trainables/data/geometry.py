"""Geometry of the views, for a batch at once: windows cut out by whole pixels, or one affine resampling."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def cut_windows(
    images: torch.Tensor,
    corners: torch.Tensor,
    *,
    size: int,
    flips: torch.Tensor | None,
    upside_down: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut a window of side `size` from every image [B, S, S, 3] at its (top, left) corner, mirrored if told.

    Outside the image it is continued by reflection.
    """
    batch, stored = images.shape[:2]
    steps = torch.arange(size, device=images.device)
    rows = _reflect(corners[:, :1] + _mirror(steps, upside_down), stored)
    columns = _reflect(corners[:, 1:] + _mirror(steps, flips), stored)
    first = torch.arange(batch, device=images.device)[:, None] * stored
    pixels = (first + rows)[:, :, None] * stored + columns[:, None, :]
    # One gather of whole pixels: three times as fast as advanced indexing, and no loop over images.
    return images.reshape(-1, 3).index_select(0, pixels.reshape(-1)).view(batch, size, size, 3)


def resample(
    view: torch.Tensor,
    draws: torch.Tensor,
    *,
    size: int,
    shown: float,
    flips: torch.Tensor | None,
    upside_down: torch.Tensor | None = None,
    shift: float,
    min_area: float,
    max_aspect: float,
    rotation: float,
    zoom: float,
    padding: str,
) -> torch.Tensor:
    """Resample [B, 3, S, S] to [B, 3, size, size] in one step, so that pixels are interpolated once only.

    Args:
        draws: [B, 6] in [0, 1): vertical and horizontal position, area, aspect, angle, zoom.
        shown: share of the side that is shown where no area is drawn.
    """
    signed = 2 * draws - 1
    if min_area < 1 or max_aspect > 1:
        area = min_area + (1 - min_area) * draws[:, 2]
        stretch = torch.exp(0.5 * math.log(max_aspect) * signed[:, 3])
        width = (area.sqrt() * stretch).clamp(max=1)
        height = (area.sqrt() / stretch).clamp(max=1)
        left, top = (1 - width) * signed[:, 1], (1 - height) * signed[:, 0]
    else:
        width = height = torch.full_like(draws[:, 0], shown)
        left, top = 2 * shift * shown * signed[:, 1], 2 * shift * shown * signed[:, 0]
    angle = math.radians(rotation) * signed[:, 4]
    scale = 1 / (1 + zoom * signed[:, 5])
    width, height = width * scale, height * scale
    if flips is not None:
        width = torch.where(flips, -width, width)
    if upside_down is not None:
        height = torch.where(upside_down, -height, height)
    grid = _make_grid(size, angle, width, height, left, top)
    return functional.grid_sample(view, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _make_grid(
    size: int,
    angle: torch.Tensor,
    width: torch.Tensor,
    height: torch.Tensor,
    left: torch.Tensor,
    top: torch.Tensor,
) -> torch.Tensor:
    """Where every pixel of the view lies in the image, in [-1, 1]; affine_grid's matrix product is slower."""
    steps = (torch.arange(size, device=angle.device, dtype=torch.float32) * 2 + 1) / size - 1
    across, down = width[:, None] * steps, height[:, None] * steps
    cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
    grid = torch.empty((len(angle), size, size, 2), device=angle.device)
    torch.add((cosine * across)[:, None, :], (left[:, None] - sine * down)[:, :, None], out=grid[..., 0])
    torch.add((sine * across)[:, None, :], (top[:, None] + cosine * down)[:, :, None], out=grid[..., 1])
    return grid


def _mirror(steps: torch.Tensor, mirrored: torch.Tensor | None) -> torch.Tensor:
    return steps if mirrored is None else torch.where(mirrored[:, None], len(steps) - 1 - steps, steps)


def _reflect(positions: torch.Tensor, length: int) -> torch.Tensor:
    positions = positions.abs()
    return torch.where(positions >= length, 2 * (length - 1) - positions, positions)
