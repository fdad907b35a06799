"""Augmentation policies by name and the views they give: drawn per image, applied per batch on any device."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from trainables.data.colours import adjust_colours, erase_square
from trainables.data.geometry import cut_windows, resample
from trainables.data.views import Fit, draw_uniform

__all__ = ["POLICIES", "Policy", "augment", "evaluation_view", "find_policy", "names"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may happen to an image; every range is drawn from uniformly and independently."""

    flip: bool = False
    """Mirror left and right, half the time."""

    shift: float = 0.0
    """Largest move in each direction, as a share of the side; the image goes on as `padding` says."""

    random_crop: bool = False
    """A window of the view's size anywhere in the stored square (HyperRule's crop)."""

    min_area: float = 1.0
    """Smallest part of the image that is shown, blown up to the whole view."""

    max_aspect: float = 1.0
    """Largest stretch of one side against the other."""

    rotation: float = 0.0
    """Largest angle in degrees, either way."""

    zoom: float = 0.0
    """Largest relative change of scale, either way."""

    padding: Literal["reflection", "border"] = "reflection"
    brightness: float = 0.0
    """Largest relative change, as of the next two."""

    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Largest turn of the colour circle, in turns."""

    erasing: float = 0.0
    """Probability that a square is greyed out."""

    @property
    def resamples(self) -> bool:
        return bool(self.min_area < 1 or self.max_aspect > 1 or self.rotation or self.zoom)

    @property
    def recolours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


POLICIES = {
    "none": Policy(),
    "flip": Policy(flip=True),
    "light": Policy(flip=True, shift=0.1),
    "medium": Policy(flip=True, min_area=0.5, max_aspect=4 / 3, brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Policy(
        flip=True,
        min_area=0.3,
        max_aspect=4 / 3,
        rotation=15,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.05,
        erasing=0.25,
    ),
    "colour": Policy(flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
    "bit": Policy(flip=True, random_crop=True),
    "bit_no_flip": Policy(random_crop=True),
    "digits_safe": Policy(shift=0.08, rotation=10, zoom=0.1, padding="border"),
}
"""Strengths are named, never continuous: a strength of its own would make every view private to its trial."""

NUM_DRAWS = 16
"""Values drawn for every image; each use has its fixed column, so that a new use changes no old view."""


def names() -> tuple[str, ...]:
    return tuple(POLICIES)


def find_policy(name: str) -> Policy:
    """Look a policy up.

    Raises:
        ValueError: no such policy.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no augmentation policy is called {name!r}; {hint}known are {', '.join(POLICIES)}")
    return POLICIES[name]


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
    copy: int = 0,
) -> torch.Tensor:
    """The view of every image in an epoch: uint8 [B, S, S, 3] to float [B, 3, size, size] in [0, 1].

    A view depends on (seed, policy, epoch, id, copy) alone. It stays on the images' device; keep `ids` on
    the CPU, where the draws are made.

    Raises:
        ValueError: no such policy, or a view larger than the stored images.
    """
    chosen = find_policy(policy)
    if chosen == POLICIES["none"]:
        return evaluation_view(images, size=size, fit=fit)
    _check_size(images, size)
    values = draw_uniform(seed, policy, epoch, ids.cpu().numpy(), NUM_DRAWS, copy=copy)
    draws = torch.from_numpy(values).to(images.device, torch.float32, non_blocking=True)
    view = _place(images, draws, chosen, size, fit)
    if chosen.recolours:
        view = adjust_colours(
            view,
            draws[:, 8:12],
            brightness=chosen.brightness,
            contrast=chosen.contrast,
            saturation=chosen.saturation,
            hue=chosen.hue,
        )
    return erase_square(view, draws[:, 12:16], probability=chosen.erasing) if chosen.erasing else view


def _place(images: torch.Tensor, draws: torch.Tensor, policy: Policy, size: int, fit: Fit) -> torch.Tensor:
    """Draws 0: flip, 1-2: position, 3: area, 4: aspect, 5: angle, 6: zoom."""
    flips = draws[:, 0] < 0.5 if policy.flip else None
    if policy.resamples:
        return resample(
            _to_float(images),
            draws[:, 1:7],
            size=size,
            shown=1.0 if fit == "squash" else size / images.shape[1],
            flips=flips,
            shift=policy.shift,
            min_area=policy.min_area,
            max_aspect=policy.max_aspect,
            rotation=policy.rotation,
            zoom=policy.zoom,
            padding=policy.padding,
        )
    if policy.random_crop:
        reach = (images.shape[1] - size + 1) * draws[:, 1:3]  # every offset that stays inside, equally often
        return _to_float(cut_windows(images, reach.floor().long(), size=size, flips=flips))
    if fit == "squash":
        images = _resize(images, size)
    margin = (images.shape[1] - size) // 2
    largest = round(policy.shift * size)
    moves = ((2 * largest + 1) * draws[:, 1:3]).floor().long() - largest
    return _to_float(cut_windows(images, margin + moves, size=size, flips=flips))


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
