"""What a sample of image files says of all: their sizes, and the values of those of more than 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from contract.decoding import DEEP_MODES, DeepRange, UnreadableImage, deep_values, open_header
from trainables.data.datasets import take_sample
from trainables.data.storage_faults import StorageFault, wait_out_faults
from trainables.images.decoding import read_file

QUANTILE = 0.999
"""Share of a data set's values that are not above white: a few hot pixels must not make all others dark."""

VALUES_OF_A_FILE = 10_000
"""Evenly spread values of an image that stand for it, so that large images count no more than small ones."""

OFFSET = 0.5
"""Where even the lowest values are above this share of white, as temperatures are, black is the lowest."""

NEVER_DEEP = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".heic", ".heif"))
"""Suffixes of formats without more than 8 bits, whose files need not be opened to know it."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class SampledSizes:
    """What the headers of about a hundred images say."""

    median_pixels: int
    """Height x width."""

    median_aspect: float
    """Long side by short side."""


def sample_sizes(paths: Sequence[Path]) -> SampledSizes:
    """Read the sizes of about a hundred images, evenly spread over the list; unreadable ones do not count.

    Raises:
        ValueError: none of them can be read.
    """
    sizes = [size for path in take_sample(paths) if (size := _attempt(partial(_read_size, path)))]
    if not sizes:
        raise ValueError(f"none of the images can be read, {paths[0]} for one: are these image files?")
    return SampledSizes(
        median_pixels=int(median(width * height for width, height in sizes)),
        median_aspect=median(max(size) / min(size) for size in sizes),
    )


def find_deep_range(paths: Sequence[Path]) -> DeepRange | None:
    """Look for images of more than 8 bits in the sample, and measure their values; None = there are none."""
    deep = [
        path
        for path in take_sample(paths)
        if path.suffix.lower() not in NEVER_DEEP and _attempt(partial(_is_deep, path))
    ]
    return measure_deep_range(deep) if deep else None


def measure_deep_range(paths: Sequence[Path]) -> DeepRange:
    """Measure the values of images of more than 8 bits, about a hundred of them; others do not count."""
    values: dict[bool, list[Any]] = {False: [], True: []}
    for path in take_sample(paths):
        found = _attempt(partial(_read_values, path))
        if found is not None and found[1].size:
            mode, of_image = found
            values[mode == "F"].append(of_image)
    black, white = _find_range(values[False], whole=DeepRange().white)
    float_black, float_white = _find_range(values[True], whole=DeepRange().float_white)
    return DeepRange(black, white, float_black, float_white)


def _find_range(values: list[Any], *, whole: float) -> tuple[float, float]:
    """Black and white for the values of some images, equally many of each; (0, whole) without any."""
    if not values:
        return 0.0, whole
    everything = np.concatenate(values)
    lowest, highest = float(everything.min()), float(everything.max())
    if lowest >= 0 and highest <= 255 and (everything == np.round(everything)).all() and highest > 1:
        return 0.0, 255.0  # values of 8 bits, in a type that could hold more
    low, high = (float(value) for value in np.quantile(everything, (1 - QUANTILE, QUANTILE)))
    if lowest >= 0 and highest <= whole and high >= whole / 2:
        high = whole  # the type's own range, nearly used
    black = low if low < 0 or OFFSET * high < low < high else 0.0
    return black, high if high > black else black + 1.0


def _read_size(path: Path) -> tuple[int, int]:
    _check_regular(path)
    with open_header(path) as image:
        return image.size


def _is_deep(path: Path) -> bool:
    _check_regular(path)
    with open_header(path) as image:
        return image.mode in DEEP_MODES


def _read_values(path: Path) -> tuple[str, Any]:
    """Mode and evenly spread finite values of an image, [V] in double precision."""
    mode, pixels = deep_values(read_file(path))
    values = pixels.reshape(-1)
    values = values[:: max(1, len(values) // VALUES_OF_A_FILE)].astype(np.float64)
    return mode, values[np.isfinite(values)]


def _check_regular(path: Path) -> None:
    if not path.is_file():  # a pipe would never end
        raise UnreadableImage("not a regular file")


def _attempt(work: Callable[[], ResultT]) -> ResultT | None:
    """What `work` finds out about a file; None where a decoder refuses it: preparation names such files."""
    try:
        return wait_out_faults(work)
    except StorageFault:
        raise
    except Exception:  # whatever a decoder raises
        return None
