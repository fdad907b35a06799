"""Differentiable augmentation of what the discriminator sees: colour, shift and a hole, real and fake alike.

A discriminator learns a few hundred images by heart, and then teaches the generator nothing. Augmented before
it sees them, real and generated, it cannot; and since the gradient passes through, the generator does not
learn to draw the augmentation (Zhao et al. 2020, arXiv:2006.10738, whose three operations and strengths these
are).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 1 / 8
"""Largest shift as a share of the side, in each direction; what moves in is middle grey."""

HOLE = 1 / 2
"""Side of the square that is greyed, as a share of the image's side."""


def augment_for_discriminator(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, saturation and contrast, shift, and cut a square out: [B, C, S, S] in [-1, 1].

    Args:
        generator: all random numbers come from it, on the CPU, so that they are the same on every device.
    """
    draws = torch.rand(len(images), 7, generator=generator).to(images.device)
    return _cut_out(_shift(_recolour(images, draws[:, :3]), draws[:, 3:5]), draws[:, 5:7])


def _recolour(images: Tensor, draws: Tensor) -> Tensor:
    """Add -0.5 to 0.5, scale the distance from the pixel's grey by 0 to 2, from the mean by 0.5 to 1.5."""
    brightness, saturation, contrast = (draws[:, at].view(-1, 1, 1, 1) for at in range(3))
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(dim=1, keepdim=True)
        images = torch.lerp(grey, images, 2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, contrast + 0.5)


def _shift(images: Tensor, draws: Tensor) -> Tensor:
    side = images.shape[-1]
    reach = round(SHIFT * side)
    moves = (draws * (2 * reach + 1)).long().clamp_(max=2 * reach)
    padded = functional.pad(images, [reach] * 4)
    steps = torch.arange(side, device=images.device)
    rows, columns = moves[:, :1] + steps, moves[:, 1:] + steps
    picked = padded.permute(0, 2, 3, 1)[
        torch.arange(len(images), device=images.device)[:, None, None], rows[:, :, None], columns[:, None]
    ]
    return picked.permute(0, 3, 1, 2)


def _cut_out(images: Tensor, draws: Tensor) -> Tensor:
    """Set a square to 0, the middle grey; its centre lies anywhere, so that it may reach over the edge."""
    side = images.shape[-1]
    hole = round(HOLE * side)
    first = (draws * (side + 1)).long().clamp_(max=side) - hole // 2
    steps = torch.arange(side, device=images.device)
    inside = (steps >= first[:, :, None]) & (steps < first[:, :, None] + hole)
    holes = inside[:, 0, :, None] & inside[:, 1, None, :]
    return images.masked_fill(holes[:, None], 0.0)
