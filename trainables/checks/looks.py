"""Describes how an image looks, whatever it shows: brightness, colours, contrast, sharpness."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.machine import count_cpus
from trainables.images.store import Images

SIDE, READ = 64, 64
"""Side in pixels of the pictures that are described, and images read at a time."""


def describe_looks(images: Images, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
    """Numbers [len(rows), 9] of rows of an image store, on scales where 1 is a visible difference."""
    wanted = np.asarray(rows, dtype=np.int64)

    def describe(start: int) -> NDArray[np.float32]:
        small = [
            Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0)
            for image in images[wanted[start : start + READ]]
        ]
        return _describe(np.stack([np.asarray(image.convert("YCbCr")) for image in small]))

    with ThreadPoolExecutor(count_cpus()) as pool:
        parts = list(pool.map(describe, range(0, len(wanted), READ)))
    return np.concatenate(parts) if parts else np.zeros((0, 9), np.float32)


def _describe(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    planes = pictures.astype(np.float32)
    grey = planes[..., 0]
    across, down = _slope(grey, axis=2), _slope(grey, axis=1)
    halved = grey.reshape(len(grey), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
    means, deviations = planes.mean((1, 2)), planes.std((1, 2))
    columns = (
        means[:, 0] / 40,
        deviations[:, 0] / 20,
        means[:, 1] / 12,
        means[:, 2] / 12,
        2 * np.log(deviations[:, 1] + 1),
        2 * np.log(deviations[:, 2] + 1),
        2 * np.log(across + down + 0.5),
        4 * np.log((across + 0.5) / (_slope(halved, axis=2) + 0.5)),  # sharpness
        2 * np.log((across + 0.5) / (down + 0.5)),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _slope(pictures: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    slope: NDArray[np.float32] = np.abs(np.diff(pictures, axis=axis)).mean((1, 2))
    return slope
