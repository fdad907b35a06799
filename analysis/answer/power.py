"""The smallest difference of accuracy that a study's validation images can show."""

from __future__ import annotations

import math

import numpy as np

from analysis.answer.pool import Pool
from analysis.predictions import Array

Z_ALPHA, Z_POWER = 1.959964, 0.841621
"""Quantiles of the normal distribution for alpha = 0.05, two-sided, and a power of 80%."""

MOST_COMPARED = 5
"""Best candidates whose disagreement tells how many images a difference needs."""


def find_smallest_difference(pool: Pool) -> float:
    """Return the smallest difference of accuracy, as a share, that the pool's images can show.

    It is that of a paired test with a power of 80% at alpha = 0.05, for two classifiers that disagree on
    which images are right as often as the best candidates do.
    """
    scores = pool.right.mean(axis=1)
    best = np.argsort(-scores, kind="stable")[:MOST_COMPARED]
    pairs = [(one, other) for index, one in enumerate(best) for other in best[:index]]
    shares, effects = [0.0], [1.0]
    for one, other in pairs:
        differences = pool.right[one] - pool.right[other]
        shares.append(float(np.abs(differences).mean()))
        effects.append(_design_effect(differences, pool.groups))
    discordance = sum(shares) / max(len(pairs), 1)
    effect = max(1.0, sum(effects[1:]) / max(len(pairs), 1))
    return smallest_difference(pool.num_images / effect, discordance)


def smallest_difference(num_images: float, discordance: float) -> float:
    """Solve the sample size of McNemar's test for the difference: Connor 1987, Biometrics 43:207.

    Args:
        num_images: images, or as many independent ones as grouped ones are worth.
        discordance: share of the images that exactly one of two classifiers has right. A difference is never
            larger, so that of two that never disagree one must gain all of it.

    Returns:
        At most 1.
    """

    def needed(difference: float) -> float:
        share = max(discordance, difference)
        root = Z_ALPHA * math.sqrt(share) + Z_POWER * math.sqrt(max(share - difference**2, 0.0))
        return (root / difference) ** 2

    low, high = 1e-9, 1.0
    if needed(high) > num_images:
        return 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if needed(middle) > num_images else (low, middle)
    return high


def _design_effect(differences: Array, groups: Array) -> float:
    """Variance of the mean of differences in groups, over that of as many single images."""
    sums = np.bincount(groups, weights=differences - differences.mean())
    single = float(((differences - differences.mean()) ** 2).sum())
    return float((sums**2).sum()) / single if single > 0 else 1.0
