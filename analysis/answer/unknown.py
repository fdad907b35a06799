"""Unknown classes: which images look like none of the classes, by a score chosen by hiding each class in turn.

A class is hidden: what is to tell its images from those of the other classes never saw it. Three scores are
tried, the cheapest first: the highest probability; GEN, the generalised entropy of the probabilities (Liu,
Lochman and Zach 2023, CVPR); and Mahalanobis++, the distance to the nearest class mean of a frozen
backbone's features of unit length (Mueller and Hein 2025, arXiv:2505.18032). For the first two a linear
probe on the frozen features stands for the model, which cannot be trained again for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.answer.calibration import fit_temperature
from analysis.answer.operating_point import Measured
from analysis.answer.probe import Features, Probe, Sums, draw_groups, fit_probe, unit_length
from analysis.comparison import wilson, wilson_of_groups
from analysis.predictions import Array
from contract.answer import apply_temperature, normalise

KEPT_SHARE = 0.95
"""Share of the validation images that the threshold keeps."""

GAMMA, MOST_SUMMED = 0.1, 100
"""GEN's exponent and the likeliest classes that it adds up, as published for 1,000 classes."""

MOST_HIDDEN = 20
"""Most classes that are hidden in turn; of more, a sample."""

MOST_IMAGES = 20_000
"""Most training and most validation images that scores are judged on; of more, a sample of whole groups."""

FEWEST_IMAGES = 5
"""Fewest images of a class that is hidden, of training and validation together."""

SCORE_SCALE = 10.0
"""A probe's scores differ by about 1 from class to class: times this they are logits near those of a model."""


class Score(StrEnum):
    """What is low for images of unknown classes; the values stand in answer.json, the cheapest first."""

    PROBABILITY = "probability"
    """The highest probability."""

    ENTROPY = "entropy"
    """GEN: minus the generalised entropy of the probabilities."""

    DISTANCE = "distance"
    """Minus the squared Mahalanobis distance of the frozen features to the nearest class mean."""


TITLES = {
    Score.PROBABILITY: "highest probability",
    Score.ENTROPY: "generalised entropy of the probabilities",
    Score.DISTANCE: "distance of the frozen features to the nearest class",
}


@dataclass(frozen=True, kw_only=True)
class HiddenClass:
    """How well each score tells one class, hidden, from the others."""

    name: str
    auroc: dict[Score, float]
    missed: dict[Score, float]
    """Share of its images that are taken for another class where the threshold keeps 95 % of the others."""


@dataclass(frozen=True, eq=False)
class Distances:
    """Squared Mahalanobis distances of features to the nearest class mean, both of unit length."""

    means: Features
    """[C, D], only of classes with images."""

    whitening: Features
    """[D, D]; a difference of features times it has independent entries of variance 1 within a class."""

    def nearest(self, features: Array) -> NDArray[np.float64]:
        """Squared distance of each image [N, D] to the nearest class, [N]."""
        whitened, means = unit_length(features) @ self.whitening, self.means @ self.whitening
        squares = (whitened**2).sum(axis=1)[:, None] - 2 * whitened @ means.T + (means**2).sum(axis=1)
        nearest: NDArray[np.float64] = np.maximum(squares.min(axis=1), 0).astype(np.float64)
        return nearest


@dataclass(frozen=True, kw_only=True)
class UnknownRule:
    """How images of unknown classes are found, and how well."""

    score: Score
    threshold: float
    """An image whose score is below is of an unknown class; -inf of too few images."""

    hidden: tuple[HiddenClass, ...]
    """The worst first; none where it cannot be judged."""

    num_classes: int
    false_alarms: Measured
    """Share of the validation images that the threshold calls unknown, with its interval for new images."""

    missed: Measured | None
    """Mean share over hidden classes that is missed; its interval is that of another class's mean."""

    note: str = ""
    """Why it cannot be judged; empty where it was."""

    distances: Distances | None = field(default=None, compare=False)
    """What the score `distance` needs; None for the others."""

    def mean(self, score: Score) -> float:
        """Mean AUROC over the hidden classes."""
        return float(np.mean([one.auroc[score] for one in self.hidden]))

    def describe(self) -> str:
        """Say in a few sentences which score it is and how well it finds classes that it does not know."""
        kept = (
            f"The threshold calls {self.false_alarms} of known images unknown"
            if np.isfinite(self.threshold)
            else "The validation images are too few for a threshold that keeps 95 % of them: none is called unknown"
        )
        if self.note or self.missed is None:
            return f"Unknown classes: by the {TITLES[self.score]}; cannot be judged: {self.note}. {kept}."
        worst = self.hidden[0]
        which = "each class" if len(self.hidden) == self.num_classes else f"{len(self.hidden)} of {self.num_classes} classes"
        return (
            f"Unknown classes: by the {TITLES[self.score]}. Hiding {which} in turn: AUROC "
            f"{self.mean(self.score):.2f}, worst {worst.name} {worst.auroc[self.score]:.2f}. {kept}, and "
            f"misses {self.missed} of the images of a hidden class."
        )

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON; `distances` is left out, which are arrays."""
        hidden = [
            {
                "name": one.name,
                "auroc": {score.value: value for score, value in one.auroc.items()},
                "missed": {score.value: value for score, value in one.missed.items()},
            }
            for one in self.hidden
        ]
        return {
            "score": self.score.value,
            "threshold": self.threshold if np.isfinite(self.threshold) else None,
            "hidden": hidden,
            "num_classes": self.num_classes,
            "false_alarms": asdict(self.false_alarms),
            "missed": asdict(self.missed) if self.missed else None,
            "note": self.note,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenFeatures:
    """Features of a frozen backbone of the images of train and val."""

    train: Features
    """[num_train, D]"""

    train_labels: Array
    train_groups: Array
    val: Features
    """[num_val, D]"""

    val_labels: Array
    val_groups: Array
    """Equal numbers for images that belong together."""


def choose_unknown_rule(
    frozen: FrozenFeatures,
    log_probabilities: Array,
    *,
    classes: Sequence[str],
    allow_distance: bool = True,
    seed: int = 0,
) -> UnknownRule:
    """Choose a score by hiding classes in turn, and set its threshold by the model's validation images.

    Args:
        log_probabilities: calibrated, of the model that is the answer, for all of frozen.val, [num_val, C].
        allow_distance: False where the frozen features are not at hand when the model is used.
    """
    scores = tuple(Score) if allow_distance else (Score.PROBABILITY, Score.ENTROPY)
    hidden, note = hide_classes(frozen, classes=classes, scores=scores, seed=seed)
    chosen = choose_score(hidden)
    distances = None
    if chosen is Score.DISTANCE:
        rows = draw_groups(frozen.train_groups, most=MOST_IMAGES, seed=seed)
        units = unit_length(frozen.train[rows])
        sums = Sums.of(units, frozen.train_labels[rows], num_classes=len(classes))
        distances = fit_distances(sums, _fourth_powers(units, frozen.train_labels[rows], sums).sum())
    if distances is not None:
        values = -distances.nearest(frozen.val)
    else:
        values = score_probabilities(log_probabilities, chosen)
    threshold = keep(values)
    return UnknownRule(
        score=chosen,
        threshold=threshold,
        hidden=tuple(sorted(hidden, key=lambda one: one.auroc[chosen])),
        num_classes=len(classes),
        false_alarms=_share(values < threshold, frozen.val_groups),
        missed=_mean_of_classes([one.missed[chosen] for one in hidden]) if hidden else None,
        note=note,
        distances=distances,
    )


def score_probabilities(log_probabilities: Array, score: Score) -> NDArray[np.float64]:
    """Score images by their log-probabilities [N, C]: low for unknown classes, [N]."""
    values = np.asarray(log_probabilities, dtype=np.float64)
    if score is Score.PROBABILITY:
        highest: NDArray[np.float64] = np.exp(values.max(axis=1))
        return highest
    most = min(MOST_SUMMED, values.shape[1])
    likeliest = -np.partition(-values, most - 1, axis=1)[:, :most]
    # Of log p, because p to the 0.1th still counts where p is 1e-30; 1 - p of p = 1 is 0, and so is its term.
    with np.errstate(divide="ignore"):
        others = np.log(-np.expm1(np.minimum(likeliest, 0.0)))
    entropy: NDArray[np.float64] = np.exp(GAMMA * (likeliest + others)).sum(axis=1)
    return -entropy


def hide_classes(
    frozen: FrozenFeatures,
    *,
    classes: Sequence[str],
    scores: Sequence[Score] = tuple(Score),
    seed: int = 0,
) -> tuple[list[HiddenClass], str]:
    """Hide classes in turn and measure how well each score tells their images from those of the others.

    The images of a hidden class are those of train and val, which nothing was fitted to.

    Returns:
        The hidden classes, and why there are none.
    """
    if len(classes) < 3:
        return [], f"hiding one of {len(classes)} classes leaves fewer than two"
    train = draw_groups(frozen.train_groups, most=MOST_IMAGES, seed=seed)
    val = draw_groups(frozen.val_groups, most=MOST_IMAGES, seed=seed)
    labels, val_labels = frozen.train_labels[train], frozen.val_labels[val]
    counts = np.bincount(labels, minlength=len(classes)) + np.bincount(val_labels, minlength=len(classes))
    possible = np.flatnonzero(counts >= FEWEST_IMAGES)
    if len(possible) < 2 or len(val) < FEWEST_IMAGES:
        return [], f"fewer than two classes have {FEWEST_IMAGES} images"
    drawn = np.sort(np.random.default_rng(seed).permutation(possible)[:MOST_HIDDEN])
    units, val_units = unit_length(frozen.train[train]), unit_length(frozen.val[val])
    sums = Sums.of(units, labels, num_classes=len(classes))
    powers = _fourth_powers(units, labels, sums)
    hidden = []
    for number in drawn:
        own, known = units[labels == number], val_labels != number
        if not known.any():
            continue
        without = sums - Sums.of(own, np.full(len(own), number), num_classes=len(classes))
        strangers = np.concatenate([own, val_units[~known]])
        seen = _Seen(without, float(powers.sum() - powers[number]), val_units[known], val_labels[known])
        values = {score: seen.score(score, strangers) for score in scores}
        hidden.append(
            HiddenClass(
                name=classes[number],
                auroc={score: auroc_of(*pair) for score, pair in values.items()},
                missed={score: float((pair[1] >= keep(pair[0])).mean()) for score, pair in values.items()},
            )
        )
    return hidden, "" if hidden else "no validation image is of another class"


def choose_score(hidden: Sequence[HiddenClass]) -> Score:
    """Choose the cheapest score, unless another one's AUROC is higher by more than the classes scatter.

    That is two standard errors of the mean difference over the hidden classes.
    """
    chosen = Score.PROBABILITY
    for other in (Score.ENTROPY, Score.DISTANCE):
        gains = np.array([one.auroc[other] - one.auroc[chosen] for one in hidden if other in one.auroc])
        if len(gains) > 1 and gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)):
            chosen = other
    return chosen


def fit_distances(sums: Sums, fourth_power: float) -> Distances:
    """Fit class means and one covariance, shrunk as Ledoit and Wolf 2004, J. Multivar. Anal. 88:365.

    Args:
        sums: of features of unit length.
        fourth_power: sum over the images of the fourth power of the distance to their class mean.
    """
    from scipy.linalg import cholesky, solve_triangular

    present = sums.counts > 0
    means = sums.totals[present] / sums.counts[present, None]
    count, width = float(sums.counts.sum()), len(sums.products)
    covariance = (sums.products - (means.T * sums.counts[present]) @ means) / count
    level, squares = float(np.trace(covariance)) / width, float((covariance**2).sum())
    noise = max(0.0, fourth_power / count - squares) / count
    spread = squares - width * level**2
    share = min(1.0, noise / spread) if spread > 0 else 1.0
    shrunk = (1 - share) * covariance
    shrunk[np.diag_indices(width)] += share * level + 1e-12
    root = cholesky(shrunk, lower=True, check_finite=False)
    whitening = solve_triangular(root, np.eye(width), lower=True, check_finite=False).T
    return Distances(means.astype(np.float32), whitening.astype(np.float32))


def keep(values: Array) -> float:
    """Threshold that new images of the known classes fall below at most once in 20 times on average.

    -inf where the images are too few for that (19 are needed).
    """
    rank = int(np.floor(round((len(values) + 1) * (1 - KEPT_SHARE), 9)))
    return float(np.sort(values)[rank - 1]) if rank > 0 else float("-inf")


def auroc_of(known: Array, strangers: Array) -> float:
    """Chance that an image of a known class scores higher than one of an unknown class; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, strangers]))
    above = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(above / (len(known) * len(strangers)))


class _Seen:
    """What is left when a class is hidden: sums of the other classes' training images, and their validation images."""

    def __init__(self, sums: Sums, fourth_power: float, known: Features, labels: Array) -> None:
        self._sums, self._fourth_power, self._known = sums, fourth_power, known
        self._probe = fit_probe(sums)
        self._temperature = fit_temperature(_predict(self._probe, known), labels)

    def score(self, score: Score, strangers: Features) -> tuple[Array, Array]:
        """Score the validation images of the other classes, and strangers."""
        if score is Score.DISTANCE:
            distances = fit_distances(self._sums, self._fourth_power)
            return -distances.nearest(self._known), -distances.nearest(strangers)
        known, other = (
            score_probabilities(apply_temperature(_predict(self._probe, one), self._temperature), score)
            for one in (self._known, strangers)
        )
        return known, other


def _predict(probe: Probe, units: Features) -> NDArray[np.float64]:
    return normalise(SCORE_SCALE * probe.scores(units).astype(np.float64))


def _fourth_powers(units: Features, labels: Array, sums: Sums) -> NDArray[np.float64]:
    """Sum of the fourth powers of the distances of each class's images to their mean, [C]."""
    means = (sums.totals / np.maximum(sums.counts, 1)[:, None]).astype(np.float32)
    squares = ((units - means[labels]) ** 2).sum(axis=1).astype(np.float64)
    powers: NDArray[np.float64] = np.bincount(labels, weights=squares**2, minlength=len(sums.counts))
    return powers


def _share(hits: Array, groups: Array) -> Measured:
    own = np.unique(groups, return_inverse=True)[1]
    if int(own.max()) + 1 < len(own):
        return Measured(float(hits.mean()), *wilson_of_groups(hits.astype(float), own))
    return Measured(float(hits.mean()), *wilson(int(hits.sum()), len(hits)))


def _mean_of_classes(shares: Sequence[float]) -> Measured:
    """Mean over classes with the 95 % interval of the mean by Student's t; everything of one class."""
    from scipy.stats import t

    mean, num = float(np.mean(shares)), len(shares)
    if num < 2:
        return Measured(mean, 0.0, 1.0)
    reach = float(t.ppf(0.975, num - 1)) * float(np.std(shares, ddof=1)) / num**0.5
    return Measured(mean, max(0.0, mean - reach), min(1.0, mean + reach))
