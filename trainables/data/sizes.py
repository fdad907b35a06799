"""How large the original images are, estimated from the headers of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image, UnidentifiedImageError

from trainables.data.storage_faults import StorageFault, wait_out_faults

SAMPLE = 100


def take_sample(paths: Sequence[Path]) -> Sequence[Path]:
    """The paths that `median_pixels` opens."""
    return paths[:: max(1, len(paths) // SAMPLE)]


def median_pixels(paths: Sequence[Path]) -> int:
    """Median height x width of up to 100 images, evenly spread over the list; unreadable ones do not count.

    Raises:
        ValueError: none of them can be read.
    """
    areas = []
    for path in take_sample(paths):
        try:
            areas.append(wait_out_faults(partial(_read_area, path)))
        except StorageFault:
            raise
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
    if not areas:
        raise ValueError(f"none of the images can be read, {paths[0]} for one: are these image files?")
    return int(median(areas))


def _read_area(path: Path) -> int:
    with Image.open(path) as image:
        return image.width * image.height
