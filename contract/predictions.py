"""Packs the predicted classes of an epoch's validation images into a few bytes, and unpacks them."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

MOST_PREDICTED = 20_000
"""Most validation images whose predicted classes are kept: the first ones of the split.

The noise of a difference over so many images is below 0.7 points (two standard errors of a paired
difference where the trials disagree on a quarter of the images), so that tests need no more.
"""


def pack_classes(classes: NDArray[np.integer]) -> bytes:
    """Pack the class of every image [images], at most MOST_PREDICTED; the first byte is the bytes a class.

    Measured on predictions that are right for 80 % of the images, equally frequent classes in random order:
    600 images take 0.3 kB (10 classes) or 0.5 kB (100), 10,000 images 5.1 kB or 8.4 kB. That
    takes 10 to 100 microseconds.
    """
    first = np.asarray(classes)[:MOST_PREDICTED]
    width = 1 if first.max(initial=0) < 2**8 else 2 if first.max(initial=0) < 2**16 else 4
    return bytes([width]) + zlib.compress(first.astype(f"<u{width}").tobytes())


def unpack_classes(packed: bytes) -> NDArray[np.int64]:
    """Unpack the class of every image, [images]."""
    return np.frombuffer(zlib.decompress(packed[1:]), dtype=f"<u{packed[0]}").astype(np.int64)
