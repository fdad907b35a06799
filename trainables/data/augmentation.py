"""Augmented views: values are drawn for each image from a hash, then applied to a batch on any device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from contract.decoding import Fit
from trainables.data.automatic import GREY, LUMA, apply_operations
from trainables.data.policies import POLICIES, Policy, find_policy
from trainables.data.views import draw_uniform

NUM_DRAWS = 26
"""Number of values drawn for an image. Each use has a fixed column, so that a new use changes no old view.

Columns 0: flip, 1-2: position, 3: area, 4: aspect, 5: angle, 6: zoom, 8-11: colours, 12-16: erasing,
17: vertical flip, 18-20 and 21-23: automatic operations.
"""

FLIP, FLIP_VERTICAL = 0, 17

SMALLEST_ERASED, LARGEST_ERASED = 0.02, 0.33
"""Area of an erased rectangle, as a share of the view's."""

ERASED_ASPECT = 3.3
"""Largest ratio of an erased rectangle's sides. It and the areas are those of arXiv:1708.04896."""


def evaluation_view(images: torch.Tensor, *, size: int, fit: Fit = "crop") -> torch.Tensor:
    """Make the view without randomness: uint8 [B, S, S, 3] to float [B, 3, size, size] in [0, 1].

    Cropped images show their exact middle, squashed and padded ones the whole square, resized, as BiT
    evaluates.
    """
    _check_size(images, size)
    if fit != "crop":
        return _to_float(_resize(images, size))
    margin = (images.shape[1] - size) // 2
    return _to_float(images[:, margin : margin + size, margin : margin + size])


def augment(
    images: torch.Tensor,
    *,
    ids: torch.Tensor,
    epoch: int,
    policy: str,
    size: int,
    seed: int,
    fit: Fit = "crop",
    copy: int | NDArray[Any] = 0,
    purpose: str = "",
) -> torch.Tensor:
    """Make the view of every image in an epoch: uint8 [B, S, S, 3] to float [B, 3, size, size] in [0, 1].

    A view depends on (seed, policy, epoch, id, copy, purpose) alone. The result is on the images' device;
    keep `ids` on the CPU, where the values are drawn.

    Args:
        copy: number of the image's copy within the epoch; one for all images, or one for each.
        purpose: names a second, independent set of draws of the same images; empty for the first.

    Raises:
        ValueError: no such policy, or a view larger than the stored images.
    """
    chosen = find_policy(policy)
    if chosen == POLICIES["none"]:
        return evaluation_view(images, size=size, fit=fit)
    _check_size(images, size)
    values = _draw(seed, purpose + policy, epoch, ids.cpu().numpy(), copy)
    draws = values.to(images.device, non_blocking=True)
    view = _place(images, draws, chosen, size, fit)
    if chosen.recolours:
        view = _recolour(view, draws, chosen)
    if chosen.automatic:
        view = apply_operations(view, values[:, 18:24], chosen.automatic)
    return erase_rectangle(view, draws[:, 12:17], probability=chosen.erasing) if chosen.erasing else view


def draw_mirrors(
    ids: NDArray[Any], *, epoch: int, policy: str, seed: int, copy: int | NDArray[Any] = 0
) -> NDArray[np.int64]:
    """Draw how `augment` mirrors each image in an epoch: bit 0 left and right, bit 1 top and bottom.

    Raises:
        ValueError: no such policy.
    """
    chosen, values = find_policy(policy), _draw(seed, policy, epoch, ids, copy)
    left_right = (values[:, FLIP] < 0.5) & chosen.flip
    upside_down = (values[:, FLIP_VERTICAL] < 0.5) & chosen.flip_vertical
    return (left_right.long() + 2 * upside_down.long()).numpy()


def mirror(view: torch.Tensor, how: int) -> torch.Tensor:
    """Mirror every image of [B, 3, H, W] as `draw_mirrors` numbers it."""
    return view.flip([dim for bit, dim in ((1, 3), (2, 2)) if how & bit]) if how else view


def _draw(seed: int, purpose: str, epoch: int, ids: NDArray[Any], copy: int | NDArray[Any]) -> torch.Tensor:
    values = torch.from_numpy(draw_uniform(seed, purpose, epoch, ids, NUM_DRAWS, copy=copy)).float()
    return values.clamp_(max=1 - 2**-24)  # rounding to single precision must not reach 1


def to_bytes(view: torch.Tensor) -> torch.Tensor:
    """Convert a view to the type of stored images: float [B, 3, S, S] in [0, 1] to uint8 [B, S, S, 3]."""
    return (view * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)


def _place(images: torch.Tensor, draws: torch.Tensor, policy: Policy, size: int, fit: Fit) -> torch.Tensor:
    """Crop, flip, shift, rotate and zoom in one step, so that pixels are interpolated once at most."""
    flips = draws[:, FLIP] < 0.5 if policy.flip else None
    upside_down = draws[:, FLIP_VERTICAL] < 0.5 if policy.flip_vertical else None
    if policy.resamples:
        return resample(
            _to_float(images),
            draws[:, 1:7],
            size=size,
            shown=size / images.shape[1] if fit == "crop" else 1.0,
            flips=flips,
            upside_down=upside_down,
            shift=policy.shift,
            min_area=policy.min_area,
            max_aspect=policy.max_aspect,
            rotation=policy.rotation,
            zoom=policy.zoom,
            padding=policy.padding,
        )
    if policy.random_crop:
        reach = (images.shape[1] - size + 1) * draws[:, 1:3]  # every offset that stays inside, equally often
        corners = reach.floor().long()
    else:
        if fit != "crop":
            images = _resize(images, size)
        margin = (images.shape[1] - size) // 2
        largest = round(policy.shift * size)
        corners = margin + ((2 * largest + 1) * draws[:, 1:3]).floor().long() - largest
    return _to_float(cut_windows(images, corners, size=size, flips=flips, upside_down=upside_down))


def _recolour(view: torch.Tensor, draws: torch.Tensor, policy: Policy) -> torch.Tensor:
    return adjust_colours(
        view,
        draws[:, 8:12],
        brightness=policy.brightness,
        contrast=policy.contrast,
        saturation=policy.saturation,
        hue=policy.hue,
    )


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize [B, S, S, 3] bytes to bytes; on a CPU without leaving them, which is seven times as fast."""
    if images.shape[1] == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    planes = planes if planes.device.type == "cpu" else planes.float()
    resized = functional.interpolate(
        planes, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    if resized.is_floating_point():
        resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.permute(0, 2, 3, 1)


def _to_float(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float().contiguous().mul_(1 / 255)


def _check_size(images: torch.Tensor, size: int) -> None:
    if not 0 < size <= images.shape[1]:
        raise ValueError(f"a view of {size} px does not fit into stored images of {images.shape[1]} px")


def cut_windows(
    images: torch.Tensor,
    corners: torch.Tensor,
    *,
    size: int,
    flips: torch.Tensor | None,
    upside_down: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut a window of side `size` from every image [B, S, S, 3] at its (top, left) corner, given as [B, 2].

    A window that reaches beyond the image continues it by reflection. `flips` and `upside_down`, bool [B],
    mirror it.
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
        shown: share of the stored side that the view shows where no area is drawn.
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
    """Compute where each pixel of the view lies in the image, in [-1, 1]; affine_grid is slower."""
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
        draws: [B, 5] in [0, 1): whether to erase, area, vertical and horizontal position, aspect.
    """
    area = SMALLEST_ERASED + (LARGEST_ERASED - SMALLEST_ERASED) * draws[:, 1]
    stretch = torch.exp(0.5 * math.log(ERASED_ASPECT) * (2 * draws[:, 4] - 1))
    sides = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], dim=1).clamp(max=1)
    sides = torch.where(draws[:, :1] < probability, sides, 0.0)
    corners = draws[:, 2:4] * (1 - sides)
    erased = rectangle_mask(view.shape[-1], corners, sides)
    return view.masked_fill_(erased[:, None], GREY)


def rectangle_mask(size: int, corners: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Mask [B, size, size] of the pixels whose centre lies in a rectangle.

    Corners and sides are [B, 2], vertical first, as shares of the image's side.
    """
    centres = (torch.arange(size, device=corners.device) + 0.5) / size
    starts, stops = corners[:, :, None], (corners + sides)[:, :, None]
    inside = (centres >= starts) & (centres < stops)
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def _turn_hue(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [B, 3, 3] about the grey axis (Rodrigues' formula): greys stay as they are."""
    unit = torch.eye(3, device=angle.device)
    axis = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device
    ) / math.sqrt(3)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cosine * unit + (1 - cosine) / 3 + sine * axis
