"""The views a policy gives: drawn per image from a hash, applied per batch on any device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch.nn import functional

from contract.decoding import Fit
from trainables.data.automatic import apply_operations
from trainables.data.colours import adjust_colours, erase_rectangle
from trainables.data.geometry import cut_windows, resample
from trainables.data.policies import POLICIES, Policy, find_policy
from trainables.data.views import draw_uniform

NUM_DRAWS = 26
"""Values drawn for every image; each use has its fixed column, so that a new use changes no old view.

0: flip, 1-2: position, 3: area, 4: aspect, 5: angle, 6: zoom, 8-11: colours, 12-16: erasing, 17: vertical
flip, 18-20 and 21-23: automatic operations.
"""


def evaluation_view(images: torch.Tensor, *, size: int, fit: Fit = "crop") -> torch.Tensor:
    """The view without chance: uint8 [B, S, S, 3] to float [B, 3, size, size] in [0, 1].

    Cropped images: the exact middle. Squashed ones: the whole square, resized, as BiT evaluates.
    """
    _check_size(images, size)
    if fit == "squash":
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
    """The view of every image in an epoch: uint8 [B, S, S, 3] to float [B, 3, size, size] in [0, 1].

    A view depends on (seed, policy, epoch, id, copy, purpose) alone. It stays on the images' device; keep
    `ids` on the CPU, where the draws are made.

    Args:
        copy: of the image within its epoch, one for all or one for each.
        purpose: of an image's second set of draws in an epoch; empty for the first.

    Raises:
        ValueError: no such policy, or a view larger than the stored images.
    """
    chosen = find_policy(policy)
    if chosen == POLICIES["none"]:
        return evaluation_view(images, size=size, fit=fit)
    _check_size(images, size)
    values = torch.from_numpy(
        draw_uniform(seed, purpose + policy, epoch, ids.cpu().numpy(), NUM_DRAWS, copy=copy)
    ).float()
    values.clamp_(max=1 - 2**-24)  # rounding to single precision must not reach 1
    draws = values.to(images.device, non_blocking=True)
    view = _place(images, draws, chosen, size, fit)
    if chosen.recolours:
        view = _recolour(view, draws, chosen)
    if chosen.automatic:
        view = apply_operations(view, values[:, 18:24], chosen.automatic)
    return erase_rectangle(view, draws[:, 12:17], probability=chosen.erasing) if chosen.erasing else view


def to_bytes(view: torch.Tensor) -> torch.Tensor:
    """A view as stored images are kept: float [B, 3, S, S] in [0, 1] to uint8 [B, S, S, 3]."""
    return (view * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)


def _place(images: torch.Tensor, draws: torch.Tensor, policy: Policy, size: int, fit: Fit) -> torch.Tensor:
    """Everything that moves pixels, in one go."""
    flips = draws[:, 0] < 0.5 if policy.flip else None
    upside_down = draws[:, 17] < 0.5 if policy.flip_vertical else None
    if policy.resamples:
        return resample(
            _to_float(images),
            draws[:, 1:7],
            size=size,
            shown=1.0 if fit == "squash" else size / images.shape[1],
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
        if fit == "squash":
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
