"""Two classes: how well a probability ranks the images, and from which one on an image counts as positive."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.comparison import FEWEST_GROUPS, resample, wilson_of_groups
from analysis.predictions import Array
from contract.intervals import wilson

TARGETS = {
    "precision": "share of the images called positive that are",
    "recall": "share of the positive images that are called so",
    "specificity": "share of the negative images that are called so",
    "false_alarms": "share of the negative images that are called positive",
}
FEWEST_RESAMPLES = 100
"""Fewest resamples that must have a value for an interval to be told."""


@dataclass(frozen=True)
class Target:
    """What an operating point is to reach."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"


@dataclass(frozen=True)
class Measured:
    """A share with its 95 % interval by groups of images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The probability of the positive class from which an image is called positive, and what it brings."""

    target: str
    threshold: float
    counts: tuple[int, int, int, int]
    """Positive images called so and not, negative images called positive and not."""

    shares: dict[str, Measured]
    """Each of TARGETS at this threshold, as chosen; none without an image to count."""

    expected: float | None
    """The target's share on new images: mean over resamples of what the threshold chosen on each brings on
    the images left out; None of so few images that most resamples have no value."""

    low: float | None
    """The share that is reached on the images left out 19 times of 20."""

    num_images: int
    num_groups: int

    def describe(self, positive: str) -> str:
        """Say in one sentence what the threshold brings, and what can be expected of it."""
        name, _, _ = self.target.partition("=")
        at = f'At {self.target} an image is called "{positive}" from probability {self.threshold:.3g} on'
        complement = {"specificity": "false_alarms", "false_alarms": "specificity"}.get(name, "false_alarms")
        shown = [key for key in self.shares if key not in (name, complement)]
        others = ", ".join(f"{key.replace('_', ' ')} {self.shares[key]}" for key in shown)
        if self.expected is None or self.low is None:
            honest = "too few images to say what new ones will bring"
        else:
            bound = "at most" if name == "false_alarms" else "at least"
            honest = f"{self.expected:.1%} expected on new images, {bound} {self.low:.1%} 19 times of 20"
        return f"{at}: {name.replace('_', ' ')} {self.shares[name].value:.1%} as chosen, {honest}; {others}."

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well the probability ranks the positive images before the negative ones."""

    auroc: Measured
    average_precision: Measured
    positive_share: float
    """What average precision would be by chance."""

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def parse_target(text: str) -> Target:
    """Read "precision=0.95".

    Raises:
        ValueError: there is no such share, or its value is not between 0 and 1.
    """
    name, _, number = (part.strip() for part in text.partition("="))
    known = ", ".join(f"{one}=X" for one in TARGETS)
    if name not in TARGETS:
        nearest = difflib.get_close_matches(name.lower().replace("-", "_"), TARGETS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"--at {text}: {hint}choose one of {known}, X between 0 and 1")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        percent = number.rstrip("% ")
        numeric = percent.replace(".", "", 1).isdigit() and 1 < float(percent) <= 100
        hint = f", as in {name}={float(percent) / 100:g}" if numeric else f", as in {name}=0.95"
        raise ValueError(f"--at {text}: a number between 0 and 1 is needed{hint}")
    return Target(name, value)


def find_operating_point(
    probabilities: Array, labels: Array, target: Target, *, positive: int, groups: Array, seed: int = 0
) -> OperatingPoint:
    """Choose the threshold that reaches the target and costs least of the other kind of mistake.

    That is the lowest one which reaches a precision, a specificity or a share of false alarms, and the
    highest one which reaches a recall. The choice is repeated on resamples of the groups, and what it brings
    on the images left out is what can be expected on new ones: Tsamardinos, Greasidou and Borboudakis 2018,
    Mach. Learn. 107:1895.

    Args:
        probabilities: calibrated, [num_images, 2].
        positive: number of the class that is looked for.
        groups: number of each image's group, counted from 0.

    Raises:
        ValueError: there are more than two classes, one of them has no image, or no threshold reaches it.
    """
    is_positive = _check_two_classes(probabilities, labels, positive, f"--at {target}")
    scores = probabilities[:, positive].astype(np.float64)
    order = _Order(scores, is_positive)
    place = _choose(target, *order.count(np.ones(len(scores))))
    if place is None:
        raise ValueError(_say_unreachable(target, order))
    threshold = order.threshold(place)
    called = scores >= threshold
    expected, low = _expect(target, order, groups, seed)
    return OperatingPoint(
        target=str(target),
        threshold=threshold,
        counts=(
            int((called & is_positive).sum()),
            int((~called & is_positive).sum()),
            int((called & ~is_positive).sum()),
            int((~called & ~is_positive).sum()),
        ),
        shares=measure_shares(called, is_positive, groups),
        expected=expected,
        low=low,
        num_images=len(scores),
        num_groups=len(np.unique(groups)),
    )


def measure_ranking(
    probabilities: Array, labels: Array, *, positive: int, groups: Array, seed: int = 0
) -> Ranking:
    """Measure AUROC and average precision with 95 % intervals by bootstrap over groups.

    Args:
        probabilities: [num_images, 2].
        positive: number of the class that is looked for.
        groups: number of each image's group, counted from 0.

    Raises:
        ValueError: there are more than two classes, or one of them has no image.
    """
    is_positive = _check_two_classes(probabilities, labels, positive, "AUROC and average precision")
    scores = probabilities[:, positive].astype(np.float64)
    measured = []
    for measure in (auroc, average_precision):
        order = _Order(scores, is_positive)
        value = measure(*order.count(np.ones(len(scores))))
        drawn = (measure(*order.count(weights)) for weights in resample(groups, seed=seed))
        known = [one for one in drawn if not np.isnan(one)]
        low, high = np.quantile(known, (0.025, 0.975))
        if len(np.unique(groups)) < FEWEST_GROUPS:
            low, high = 0.0, 1.0  # so few groups leave everything open
        measured.append(Measured(value, float(low), float(high)))
    return Ranking(auroc=measured[0], average_precision=measured[1], positive_share=float(is_positive.mean()))


class _Order:
    """Images in the order of falling scores, equal ones together: each count is one cumulative sum."""

    def __init__(self, scores: Array, is_positive: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        sorted_scores = scores[self._order]
        self.num_images = len(scores)
        self._ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
        self._is_positive = is_positive[self._order]
        self.distinct = sorted_scores[self._ends]
        """Scores that differ, the highest first."""

    def count(self, weights: Array) -> tuple[Array, Array]:
        """Count positive and negative images above none of the scores, the first, the first two, …"""
        sorted_weights = weights[self._order]
        hits = np.cumsum(sorted_weights * self._is_positive)[self._ends]
        alarms = np.cumsum(sorted_weights * ~self._is_positive)[self._ends]
        return np.append(0.0, hits), np.append(0.0, alarms)

    def threshold(self, place: int) -> float:
        """Threshold half way between the scores around a place, where rounding changes nothing."""
        if place == len(self.distinct):
            return 0.0
        above = 1.0 if place == 0 else float(self.distinct[place - 1])
        return max((above + float(self.distinct[place])) / 2, float(np.nextafter(self.distinct[place], 2)))


def auroc(hits: Array, alarms: Array) -> float:
    """Area under the curve of recall over false alarms; NaN without a positive or a negative image.

    Args:
        hits: positive images above each threshold, from none to all.
        alarms: negative images likewise.
    """
    if hits[-1] == 0 or alarms[-1] == 0:
        return float("nan")
    return float(np.trapezoid(hits, alarms) / (hits[-1] * alarms[-1]))


def average_precision(hits: Array, alarms: Array) -> float:
    """Mean precision over the positive images, each at the threshold that just holds it; NaN without any."""
    if hits[-1] == 0:
        return float("nan")
    gained = np.diff(hits)
    found = hits[1:][gained > 0]
    return float((gained[gained > 0] * found / (found + alarms[1:][gained > 0])).sum() / hits[-1])


def _shares(name: str, hits: Array, alarms: Array) -> NDArray[np.float64]:
    """The share at each threshold; NaN where there is no image to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values: dict[str, Callable[[], Array]] = {
            "precision": lambda: hits / (hits + alarms),
            "recall": lambda: hits / hits[-1],
            "specificity": lambda: 1 - alarms / alarms[-1],
            "false_alarms": lambda: alarms / alarms[-1],
        }
        share: NDArray[np.float64] = values[name]()
    return share


def _choose(target: Target, hits: Array, alarms: Array) -> int | None:
    """Place of the threshold that reaches the target at the least cost; None if none does."""
    shares = _shares(target.name, hits, alarms)
    if target.name == "false_alarms":
        reached = np.flatnonzero(shares <= target.value + 1e-12)
    else:
        reached = np.flatnonzero(shares >= target.value - 1e-12)
    if len(reached) == 0:
        return None
    return int(reached[0] if target.name == "recall" else reached[-1])


def _expect(target: Target, order: _Order, groups: Array, seed: int) -> tuple[float | None, float | None]:
    """Mean share on the images left out of a resample, by the threshold chosen on it, and its worst 5 %."""
    shares = []
    for weights in resample(groups, seed=seed):
        place = _choose(target, *order.count(weights))
        if place is None:  # not reachable on these: the best that they offer
            chosen = _shares(target.name, *order.count(weights))
            place = int(np.nanargmax(chosen)) if np.isfinite(chosen).any() else 0
        left_out = _shares(target.name, *order.count((weights == 0).astype(float)))[place]
        if np.isfinite(left_out):
            shares.append(float(left_out))
    if len(shares) < FEWEST_RESAMPLES or len(np.unique(groups)) < FEWEST_GROUPS:
        return None, None
    return float(np.mean(shares)), float(np.quantile(shares, 0.95 if target.name == "false_alarms" else 0.05))


def measure_shares(called: Array, is_positive: Array, groups: Array) -> dict[str, Measured]:
    """Measure each of TARGETS where it has an image to count, on any split.

    Args:
        called: whether each image's probability reaches the threshold, [num_images].
        is_positive: whether it is of the class that is looked for, [num_images].
        groups: equal numbers for images that belong together, [num_images].
    """
    hits = {
        "precision": (called, is_positive),
        "recall": (is_positive, called),
        "specificity": (~is_positive, ~called),
        "false_alarms": (~is_positive, called),
    }
    measured = {}
    for name, (among, right) in hits.items():
        if among.any():
            values, own = right[among].astype(float), np.unique(groups[among], return_inverse=True)[1]
            is_grouped = int(own.max()) + 1 < len(own)
            low, high = (
                wilson_of_groups(values, own) if is_grouped else wilson(int(values.sum()), len(values))
            )
            measured[name] = Measured(float(values.mean()), low, high)
    return measured


def _say_unreachable(target: Target, order: _Order) -> str:
    hits, alarms = order.count(np.ones(order.num_images))
    shares = _shares(target.name, hits, alarms)
    best = int(np.flatnonzero(shares == np.nanmax(shares))[-1])
    return (
        f"--at {target}: no threshold reaches it on the {int(hits[-1] + alarms[-1])} validation images; the "
        f"best {target.name} is {shares[best]:.3f}, at recall {hits[best] / hits[-1]:.3f}"
    )


def _check_two_classes(probabilities: Array, labels: Array, positive: int, what: str) -> NDArray[np.bool_]:
    num_classes = probabilities.shape[1]
    if num_classes != 2:
        raise ValueError(
            f"{what}: an operating point needs two classes, and this study has {num_classes}; "
            "merge classes with --classes FILE"
        )
    is_positive: NDArray[np.bool_] = labels == positive
    if is_positive.all() or not is_positive.any():
        lacking = positive if not is_positive.any() else 1 - positive
        raise ValueError(f"{what}: class {lacking} has no validation image")
    return is_positive
