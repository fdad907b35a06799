"""Random numbers of the shared views: a counter-based hash, so all trials see the same view of an image."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.decoding import Fit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw_uniform(
    seed: int, policy: str, epoch: int, ids: NDArray[Any], num: int, *, copy: int | NDArray[Any] = 0
) -> NDArray[np.float64]:
    """Draw `num` values in [0, 1) for every image: the same ones in whatever batch or order the image comes.

    The generator is splitmix64 (https://prng.di.unimi.it/splitmix64.c), keyed by seed, policy, epoch and copy
    (one for all images, or one for each), with the image's id as its counter.
    """
    copies, which = np.unique(copy, return_inverse=True)
    key = np.array([_make_key(f"{seed}/{policy}/{epoch}/{number}") for number in copies])[which]
    counters = np.arange(1, num + 1, dtype=np.uint64) * _GOLDEN
    start = _mix(_mix(np.asarray(ids).astype(np.uint64) + _GOLDEN) ^ key)
    bits = _mix(start[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _make_key(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def storage_size(size: int, fit: Fit) -> int:
    """Side in pixels of the stored square from which views of side `size` are cut.

    A view of a cropped image shows the usual 87.5 % of it; squashed and padded ones have the margin of
    BiT-HyperRule: 160 px for 128, 512 for 480.
    """
    if fit == "crop":
        return round(size / 0.875)
    return round(size * 160 / 128) if size < 160 else round(size * 512 / 480)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
