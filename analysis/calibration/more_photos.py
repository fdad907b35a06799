"""Would more photos help: a linear probe's accuracy with a quarter, half and all of the training images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.probe import Features, Sums, deal_groups, draw_groups, fit_probe, unit_length
from analysis.comparison import FEWEST_GROUPS, resample
from analysis.predictions import Array

QUARTERS = 4
FEWEST_A_CLASS = 4
"""Fewest training images a class, on average, of which quarters are made."""

MOST_IMAGES = 50_000
"""Most training and most validation images; of more, a sample of whole groups."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Accuracy with a share of the training images."""

    share: float
    num_images: int
    """Training images in one draw, on average."""

    accuracy: float
    """Mean over the draws."""

    spread: float
    """Standard deviation over the draws; 0 where there is one, of all images."""

    num_draws: int


@dataclass(frozen=True, kw_only=True)
class PhotoCurve:
    """Accuracy on the validation images by the number of training images."""

    shares: tuple[Share, ...]
    """Accuracy with a quarter, half and all of them; empty where that cannot be judged."""

    gain: float
    """Accuracy with all less that with half of the training images."""

    low: float
    high: float
    """Ends of the gain's 95 % interval: the validation images vary by groups, and the draws."""

    num_images: int
    """Validation images."""

    note: str = ""
    """Why it cannot be judged, or that a sample of the images was taken."""

    @property
    def helps(self) -> bool:
        """True if the second half of the training images brought more than noise."""
        return bool(self.shares) and self.low > 0

    def describe(self) -> str:
        """Say in a sentence or two whether more photos would help."""
        if not self.shares:
            return f"Whether more photos would help cannot be judged: {self.note}."
        first, half, whole = self.shares
        steps = f"{first.accuracy:.1%}, {half.accuracy:.1%} and {whole.accuracy:.1%}"
        photos = f"{whole.num_images:,} training photos"
        curve = f"Accuracy of a linear probe with 25, 50 and 100 % of the {photos}: {steps}"
        sampled = f" ({self.note})" if self.note else ""
        interval = f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        gain = f"the second half brought {100 * self.gain:+.1f} points ({interval})"
        if self.helps:
            return f"{curve}{sampled}; {gain}: more photos would help."
        if self.high < 0.01:
            return f"{curve}{sampled}; {gain}: more photos of this kind would hardly help."
        return f"{curve}{sampled}; {gain}: within noise, more photos may help or not."

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "helps": self.helps}


def measure_photo_curve(
    train: Features,
    train_labels: Array,
    train_groups: Array,
    val: Features,
    val_labels: Array,
    val_groups: Array,
    *,
    num_classes: int,
    seed: int = 0,
) -> PhotoCurve:
    """Fit probes to each quarter of the training images, to each pair of quarters, and to all.

    A model whose backbone trains too gains more from photos than a probe does, so that "would help" holds for
    it, and "hardly" need not.

    Args:
        train: features of a frozen backbone, [num_train, D]; val likewise.
        train_groups: equal numbers for images that belong together: they are drawn together.
    """
    note = _say_why_not(train_labels, val_labels, val_groups, num_classes)
    if note:
        return PhotoCurve(shares=(), gain=0.0, low=0.0, high=0.0, num_images=len(val_labels), note=note)
    rows = draw_groups(train_groups, most=MOST_IMAGES, seed=seed)
    val_rows = draw_groups(val_groups, most=MOST_IMAGES, seed=seed)
    if len(rows) < len(train_labels):
        note = f"of a sample of {len(rows):,} of {len(train_labels):,}"
    labels, answers = train_labels[rows], val_labels[val_rows]
    units, val_units = unit_length(train[rows]), unit_length(val[val_rows])
    part = deal_groups(labels, train_groups[rows], parts=QUARTERS, seed=seed)
    sums = [
        Sums.of(units[part == one], labels[part == one], num_classes=num_classes) for one in range(QUARTERS)
    ]
    shares, right = [], []
    for size in (1, 2, QUARTERS):
        hits = [_right(sums, chosen, val_units, answers) for chosen in combinations(range(QUARTERS), size)]
        accuracies = [float(one.mean()) for one in hits]
        shares.append(
            Share(
                share=size / QUARTERS,
                num_images=round(len(labels) * size / QUARTERS),
                accuracy=float(np.mean(accuracies)),
                spread=float(np.std(accuracies, ddof=1)) if len(hits) > 1 else 0.0,
                num_draws=len(hits),
            )
        )
        right.append(np.mean(hits, axis=0))
    gains = right[2] - right[1]
    reach = 1.96 * _standard_error(gains, val_groups[val_rows], shares[1].spread, seed)
    gain = float(gains.mean())
    return PhotoCurve(
        shares=tuple(shares),
        gain=gain,
        low=gain - reach,
        high=gain + reach,
        num_images=len(answers),
        note=note,
    )


def _right(sums: list[Sums], chosen: tuple[int, ...], units: Features, labels: Array) -> NDArray[np.float64]:
    total = sums[chosen[0]]
    for one in chosen[1:]:
        total = total + sums[one]
    right: NDArray[np.float64] = (fit_probe(total).scores(units).argmax(axis=1) == labels).astype(float)
    return right


def _standard_error(gains: Array, groups: Array, spread: float, seed: int) -> float:
    """Standard error of the mean gain: of the validation images, and of the training images.

    All training images are one draw. Of half as many as these the accuracy scatters by `spread`, and the
    scatter of a mean over images falls with the root of their number.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    drawn = [float(weights @ gains / weights.sum()) for weights in resample(numbers, seed=seed)]
    return float(np.hypot(np.std(drawn), spread / np.sqrt(2)))


def _say_why_not(train_labels: Array, val_labels: Array, val_groups: Array, num_classes: int) -> str:
    if num_classes < 2:
        return "there is one class"
    if len(train_labels) < FEWEST_A_CLASS * num_classes:
        return (
            f"{len(train_labels)} training images of {num_classes} classes are too few to take a quarter of"
        )
    if len(np.unique(val_groups)) < FEWEST_GROUPS or not len(val_labels):
        return f"{len(np.unique(val_groups))} groups of validation images are too few"
    return ""
