"""95% intervals of corrected scores, and the smallest difference that a set of images can show.

Two things make a corrected score differ from that of the chosen model: the images, and that another model
might have been chosen from them. Their variances are added by the caller: that of the mean over groups of
images, and that of the scores of the models chosen on the resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.predictions import Array

COVERED = 0.975
"""Upper end of a two-sided 95% interval."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def estimate_share(value: float, variance: float, *, num_groups: int) -> Estimate:
    """Give a share Wilson's interval for as many images as would have its variance.

    That many are scaled to the t distribution with the groups less one as degrees of freedom: Korn and
    Graubard 1998, Survey Methodology 24:193; Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484. Of a
    share of 0 or 1 each group counts as one image.
    """
    if num_groups < 2:
        return Estimate(value, 0.0, 1.0)
    z, wider = _quantiles(num_groups)
    inside = value * (1 - value)
    size = (inside / variance if variance > 0 and inside > 1e-12 else num_groups) * (z / wider) ** 2
    middle = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z * math.sqrt(inside / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return Estimate(value, max(0.0, middle - reach), min(1.0, middle + reach))


def estimate_loss(value: float, variance: float, *, num_groups: int) -> Estimate:
    """Give a mean loss an interval that is symmetric on the scale of logarithms.

    Few images with a large loss make the mean, so that too few of them are drawn more often than too many.
    """
    if num_groups < 2:
        return Estimate(value, 0.0, math.inf)
    if value <= 0:
        return Estimate(value, 0.0, 0.0)
    reach = min(_quantiles(num_groups)[1] * math.sqrt(variance) / value, 50.0)
    return Estimate(value, value * math.exp(-reach), value * math.exp(reach))


def paired_difference(value: float, variance: float, *, num_groups: int) -> Estimate:
    """Give a difference the interval of the t distribution with the groups less one as degrees of freedom."""
    if num_groups < 2:
        return Estimate(value, -math.inf, math.inf)
    reach = _quantiles(num_groups)[1] * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach)


def variance_of_mean(scores: Array, groups: Array) -> float:
    """Variance of the mean of scores whose images come in groups: that of the groups' sums."""
    num_groups = int(groups.max()) + 1
    if num_groups < 2:
        return math.inf
    sums = np.bincount(groups, weights=scores - scores.mean())
    return num_groups / (num_groups - 1) * float((sums**2).sum()) / len(scores) ** 2


def _quantiles(num_groups: int) -> tuple[float, float]:
    from scipy.special import ndtri, stdtrit  # a tenth of the time that scipy.stats takes to import

    return float(ndtri(COVERED)), float(stdtrit(num_groups - 1, COVERED))
