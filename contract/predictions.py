"""Packs what an epoch predicted for the validation images, and unpacks it: classes, or log-probabilities."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_PREDICTED = 20_000
"""Most validation images whose predicted classes are kept: the first ones of the split.

The noise of a difference over so many images is below 0.7 points (two standard errors of a paired
difference where the trials disagree on a quarter of the images), so that tests need no more.
"""


MOST_DENSE = 500
"""Most classes of which every log-probability is stored."""

KEPT_CLASSES = 100
"""Likeliest classes of each image that are stored where there are more; the others are below 1 % each."""

ROWS_AT_ONCE = 1000


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


def pack_log_probabilities(
    log_probabilities: NDArray[np.float32], labels: NDArray[np.integer]
) -> dict[str, NDArray[Any]]:
    """Return the arrays that predictions.npz holds of log-probabilities [images, classes].

    All of them up to MOST_DENSE classes: `log_probabilities`. Of more, 3,000 images of 3,000 classes would
    take 36 MB a trial. Kept are the KEPT_CLASSES likeliest of each image and its own (`kept_classes`, `kept`,
    1.8 MB) and the mean of the others (`rest`), so that accuracy, loss and the sum of 1 stay what they were.
    """
    num_images, num_classes = log_probabilities.shape
    if num_classes <= MOST_DENSE:
        return {"log_probabilities": log_probabilities}
    chosen = np.empty((num_images, KEPT_CLASSES + 1), np.uint16 if num_classes < 2**16 else np.uint32)
    kept = np.empty(chosen.shape, np.float32)
    rest = np.empty(num_images, np.float32)
    for start in range(0, num_images, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        chosen[rows], kept[rows], rest[rows] = _keep_likeliest(log_probabilities[rows], labels[rows])
    return {"kept_classes": chosen, "kept": kept, "rest": rest, "num_classes": np.array(num_classes)}


def _keep_likeliest(
    values: NDArray[np.float32], labels: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.float32], NDArray[np.float32]]:
    """Choose each image's likeliest classes and, last, its own, which may be among them."""
    top = np.argpartition(-values, KEPT_CLASSES - 1, axis=1)[:, :KEPT_CLASSES]
    least = np.take_along_axis(values, top, axis=1).min(axis=1)
    # Where all of these are equally likely, the first of them must stay the first.
    equal = np.flatnonzero(least == values.max(axis=1))
    top[equal] = np.argsort(-values[equal], axis=1, kind="stable")[:, :KEPT_CLASSES]
    chosen = np.concatenate([top, labels[:, None]], axis=1)
    others = values.astype(np.float64)
    np.put_along_axis(others, chosen, -np.inf, axis=1)
    num_others = values.shape[1] - KEPT_CLASSES - (top != labels[:, None]).all(axis=1)
    likeliest = others.max(axis=1, keepdims=True)
    rest = likeliest[:, 0] + np.log(np.exp(others - likeliest).sum(axis=1) / num_others)
    return chosen, np.take_along_axis(values, chosen, axis=1), np.minimum(rest, least).astype(np.float32)


def unpack_log_probabilities(arrays: Mapping[str, Any]) -> NDArray[np.float32]:
    """Restore log-probabilities [images, classes] of the arrays of `pack_log_probabilities`.

    Raises:
        KeyError: the arrays hold none.
    """
    if "kept" not in arrays:
        dense: NDArray[np.float32] = arrays["log_probabilities"].astype(np.float32)
        return dense
    chosen, rest = arrays["kept_classes"].astype(np.int64), arrays["rest"]
    values = np.repeat(rest[:, None], int(arrays["num_classes"]), axis=1)
    np.put_along_axis(values, chosen, arrays["kept"], axis=1)
    return values
