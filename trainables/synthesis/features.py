"""Frozen features of real and generated images, by which a GAN's quality is measured, and a probe on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainables.checks.features import compute_features

SMALLEST_SIDE = 96
"""Side in pixels to which smaller images are enlarged before the backbone sees them. Of the digits, 8 pixels
wide, its features told 0.91 right by the nearest neighbour at 96, 0.86 at 64 and 0.90 at 128."""

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Progress = Callable[[int, int], None]


class _Enlarged:
    """Square images [N, S, S, 3], enlarged when they are read: all at once they would take much memory."""

    def __init__(self, images: Pixels, side: int) -> None:
        self._images = images
        self.shape = (len(images), side, side, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> Pixels:
        planes = torch.from_numpy(np.ascontiguousarray(self._images[rows])).permute(0, 3, 1, 2).float()
        resized = functional.interpolate(planes, self.shape[1:3], mode="bicubic", antialias=True)
        pixels: Pixels = resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return pixels


def measure_features(images: Pixels, *, device: str = "cpu", progress: Progress | None = None) -> Features:
    """Pooled features [N, 1280] of images [N, S, S, 3] by the backbone that ships with the installation.

    Real and generated images of one size go the same way, so that only what they show differs.
    """
    side = max(SMALLEST_SIDE, images.shape[1])
    rows = np.arange(len(images))
    return compute_features(
        _Enlarged(images, side), rows, image_size=side, fit="squash", device=device, progress=progress
    )
