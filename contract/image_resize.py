"""Resizes small pictures with numpy alone, to the same bytes as torch does; a model takes a copy of it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from contract.decoding import Pixels

MOST_BITS = 22
"""Most bits of the fraction of a whole-number weight."""


def resize(picture: Pixels, size: int) -> Pixels:
    """Resize bytes [S, S, 3] to [size, size, 3] by the antialiased bilinear filter.

    The result is that of `torch.nn.functional.interpolate(..., mode="bilinear", antialias=True)` on bytes,
    which the search evaluates with: first the width, then the height, both with weights in whole numbers.
    """
    if picture.shape[0] == size:
        return picture
    rows, weights, bits = _filter(picture.shape[0], size)
    turned = picture.transpose(1, 0, 2)
    for _ in range(2):  # the width, then the height: the one that is resized comes first
        total = np.full((size, *turned.shape[1:]), 1 << (bits - 1), np.int32)
        for tap in range(rows.shape[1]):
            total += turned[rows[:, tap]] * weights[:, tap, None, None]
        turned = np.clip(total >> bits, 0, 255).astype(np.uint8).transpose(1, 0, 2)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


@lru_cache(maxsize=8)
def _filter(old: int, new: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Which old pixels [new, taps] make each new one, their weights as whole numbers, and the bits of one."""
    scale = old / new
    support = max(scale, 1.0)
    num_taps = int(np.ceil(support)) * 2 + 1
    rows, shares = np.zeros((new, num_taps), np.int64), np.zeros((new, num_taps))
    for place in range(new):
        center = scale * (place + 0.5)
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), old)
        taps = np.arange(first, last)
        share = np.maximum(0.0, 1.0 - np.abs((taps - center + 0.5) / support))
        rows[place, : len(taps)] = taps
        shares[place, : len(taps)] = share / share.sum()
    bits = 0
    while bits < MOST_BITS and int(0.5 + shares.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    weights = np.floor(shares * (1 << bits) + 0.5).astype(np.int32)
    used = int(weights.any(axis=0).sum())
    return rows[:, :used], weights[:, :used], bits
