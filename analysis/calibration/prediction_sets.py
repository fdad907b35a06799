"""Prediction sets: not one class, but those probable enough to hold the true one, say, 9 times of 10.

Split conformal prediction with the least ambiguous sets (LAC) of Sadinle, Lei and Wasserman 2019,
J. Am. Stat. Assoc. 114:223: a class is in the set where its probability is at least that which all but a
share alpha of the validation images gave their own class.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.comparison import wilson_of_groups
from analysis.predictions import Array
from contract.intervals import wilson

ALPHA = 0.1

COVERAGES = tuple(share / 100 for share in range(50, 100))
"""Coverages whose thresholds a model's card has."""


@dataclass(frozen=True, kw_only=True)
class SetThreshold:
    """The least probability of a class in the set, and how sure its coverage is."""

    least: float
    """0 where the images are too few: every set then holds all classes."""

    alpha: float
    rank: int
    """The image whose own probability is `least`, counted from the highest; more than there are: too few."""

    num_images: int
    num_effective: float
    """Images that would say as much if each were its own group, were those of one group wholly alike."""

    low: float
    high: float
    """Interval in which the coverage of new images lies, 19 times of 20: it depends on the images at hand."""

    @property
    def holds_all(self) -> bool:
        """True if the images are too few for smaller sets than that of all classes."""
        return self.rank > self.num_images

    def describe(self) -> str:
        """Say in one sentence what the sets promise."""
        if self.holds_all:
            needed = math.ceil(round(1 / self.alpha - 1, 9))
            return (
                f"Prediction sets at {1 - self.alpha:.0%} hold all classes: {self.num_images} validation "
                f"images are too few ({needed} are needed)."
            )
        return (
            f"Prediction sets hold the true class of {1 - self.alpha:.0%} of new images, give or take what "
            f"{self.num_images:,} validation images leave open ({self.low:.1%} to {self.high:.1%}): "
            f"classes of probability {self.least:.3g} and more."
        )

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What the sets of images that the threshold never saw turned out to be."""

    covered: float
    """Share of the images whose set holds their class."""

    low: float
    high: float
    """Its 95 % interval for all new images: Wilson's, by groups."""

    expected_low: float
    expected_high: float
    """Where the share should lie 19 times of 20: beta-binomial, both the threshold and these images vary."""

    mean_size: float
    num_images: int
    filled: float
    """Share of the images of which no class was probable enough, and the likeliest one stands alone."""

    alpha: float

    @property
    def keeps_promise(self) -> bool:
        """True unless fewer images are covered than chance explains."""
        return self.covered >= self.expected_low

    def describe(self) -> str:
        """Say in one sentence whether the promise was kept."""
        verdict = "as promised" if self.keeps_promise else "fewer than promised"
        return (
            f"The sets held the true class of {self.covered:.1%} of {self.num_images:,} images "
            f"({self.low:.1%} to {self.high:.1%}), {verdict} ({1 - self.alpha:.0%}; chance explains "
            f"{self.expected_low:.1%} to {self.expected_high:.1%}), with {self.mean_size:.2f} classes each."
        )

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "keeps_promise": self.keeps_promise}


def fit_threshold(
    probabilities: Array, labels: Array, *, alpha: float = ALPHA, groups: Array | None = None
) -> SetThreshold:
    """Find the least probability by which sets hold the true class of 1 - alpha of new images.

    It is the own probability of the ceil((n + 1) (1 - alpha))-th image, the most probable first. With
    n images that are drawn like the new ones, the coverage of new images is then Beta(k, n + 1 - k): on
    average at least 1 - alpha. Images that also chose the model make it a little too sure of itself, so that
    the coverage is to be checked on others (`check_coverage`).

    Args:
        probabilities: calibrated, [num_images, num_classes].
        groups: equal numbers for images that belong together; the interval counts them as one, at worst.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: a number between 0 and 1 is needed, 0.1 for sets that hold 90 %")
    from scipy.special import betaincinv  # scipy.stats takes 0.3 s to import

    num_images = len(labels)
    rank = _rank(num_images, alpha)
    own = np.sort(probabilities[np.arange(num_images), labels])[::-1]
    effective = _effective(groups, num_images)
    worst = _rank(effective, alpha)
    low = high = 1.0
    if worst <= effective and rank <= num_images:
        low, high = betaincinv(worst, effective + 1 - worst, (0.025, 0.975))
    elif rank <= num_images:
        low = 0.0  # so few groups leave everything open
    return SetThreshold(
        least=float(own[rank - 1]) if rank <= num_images else 0.0,
        alpha=alpha,
        rank=rank,
        num_images=num_images,
        num_effective=effective,
        low=float(low),
        high=float(high),
    )


def fit_thresholds(probabilities: Array, labels: Array) -> dict[str, float]:
    """Find the least probability of a class in a set for each of COVERAGES, named as in "0.90".

    Args:
        probabilities: calibrated, [num_images, num_classes].
    """
    own = np.sort(probabilities[np.arange(len(labels)), labels])[::-1]
    ranks = {f"{share:.2f}": _rank(len(labels), 1 - share) for share in COVERAGES}
    return {name: float(own[rank - 1]) if rank <= len(own) else 0.0 for name, rank in ranks.items()}


def make_sets(probabilities: Array, threshold: SetThreshold) -> NDArray[np.bool_]:
    """Say which classes are in each image's set, [num_images, num_classes].

    Where no class is probable enough the set would be empty, which no one can use: it holds the likeliest
    class. So the coverage is what is promised or above, and every set has a class.
    """
    inside: NDArray[np.bool_] = probabilities >= threshold.least
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside


def check_coverage(
    probabilities: Array, labels: Array, threshold: SetThreshold, *, groups: Array | None = None
) -> Coverage:
    """Compare the sets of images that the threshold never saw with what it promises.

    Args:
        probabilities: of the same model with the same temperature, [num_images, num_classes].
        groups: equal numbers for images that belong together.

    Raises:
        ValueError: there are no images.
    """
    num_images = len(labels)
    if num_images == 0:
        raise ValueError("no images to check the prediction sets on: the test split is empty")
    sets = make_sets(probabilities, threshold)
    hits = sets[np.arange(num_images), labels]
    if groups is None or len(np.unique(groups)) == num_images:
        low, high = wilson(int(hits.sum()), num_images)
    else:
        low, high = wilson_of_groups(hits.astype(float), np.unique(groups, return_inverse=True)[1])
    expected_low, expected_high = _expected(threshold, _effective(groups, num_images))
    return Coverage(
        covered=float(hits.mean()),
        low=low,
        high=high,
        expected_low=expected_low,
        expected_high=expected_high,
        mean_size=float(sets.sum(axis=1).mean()),
        num_images=num_images,
        filled=float((probabilities.max(axis=1) < threshold.least).mean()),
        alpha=threshold.alpha,
    )


def _rank(num_images: float, alpha: float) -> int:
    """ceil((n + 1) (1 - alpha)), where 100 x 0.9 is 90 and not a little more."""
    return math.ceil(round((num_images + 1) * (1 - alpha), 9))


def _effective(groups: Array | None, num_images: int) -> float:
    """Images that would say as much if each were its own group, were those of one group wholly alike."""
    if groups is None or num_images == 0:
        return float(num_images)
    sizes = np.unique(groups, return_counts=True)[1].astype(float)
    return float(num_images**2 / (sizes**2).sum())


def _expected(threshold: SetThreshold, num_new: float) -> tuple[float, float]:
    """Where the share of new images that are covered should lie, 19 times of 20."""
    from scipy.stats import betabinom

    if threshold.holds_all:
        return 1.0, 1.0
    known, new = threshold.num_effective, max(1, round(num_new))
    rank = _rank(known, threshold.alpha)
    if rank > known:
        return 0.0, 1.0
    low, high = betabinom.ppf((0.025, 0.975), new, rank, known + 1 - rank)
    return float(low) / new, float(high) / new
