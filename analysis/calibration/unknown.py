"""Unknown classes: which images look like none of the classes, by a score chosen by hiding classes in turn.

A class is hidden: what is to tell its images from those of the other classes never saw it. The scores are
the highest probability; GEN, the generalised entropy of the probabilities (Liu, Lochman and Zach 2023, CVPR);
Mahalanobis++, the distance to the nearest class mean of a frozen backbone's features of unit length (Mueller
and Hein 2025, arXiv:2505.18032); and the last two together. A linear probe on the frozen features stands
for the model, which cannot be trained again for each class. A hidden class resembles the others. Images that
show something else altogether are found by the distance, and hardly by the probabilities
(`python -m benchmarks unknown_class`): so the two together are preferred where the features are at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.operating_point import Measured
from analysis.calibration.probe import Features, Probe, Sums, draw_groups, fit_probe, unit_length
from analysis.calibration.temperature import fit_temperature
from analysis.calibration.unknown_scores import (
    TITLES,
    Distances,
    Scale,
    Score,
    add_scores,
    auroc_of,
    fit_distances,
    fit_distances_to_sums,
    keep,
    sum_fourth_powers,
)
from analysis.comparison import wilson_of_groups
from analysis.predictions import Array
from contract.answer import apply_temperature, normalise
from contract.intervals import wilson
from contract.unknown_score import DistanceScore, score_probabilities

MOST_HIDDEN = 20
"""Most classes that are hidden in turn; of more, a sample."""

MOST_TRAIN, MOST_VAL = 10_000, 2_000
"""Most images that scores are judged on; of more, a sample of whole groups."""

FEWEST_IMAGES = 5
"""Fewest images of a class that is hidden, of training and validation together."""

SCORE_SCALE = 10.0
"""A probe's scores of the classes differ by about 1: times this they are logits near those of a model."""


@dataclass(frozen=True, kw_only=True)
class HiddenClass:
    """How well each score tells one class, hidden, from the others."""

    name: str
    auroc: dict[Score, float]
    missed: dict[Score, float]
    """Share of its images that are taken for another class where the threshold keeps 95 % of the others."""


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

    scales: tuple[Scale, Scale] | None = None
    """Those of entropy and distance, for the score `both`."""

    distances: Distances | None = field(default=None, compare=False)
    """What the scores `both` and `distance` need; None for the others."""

    def score_images(self, log_probabilities: Array, features: Array | None = None) -> NDArray[np.float64]:
        """Score new images; those below `threshold` are of an unknown class.

        Args:
            log_probabilities: calibrated, [N, C].
            features: of the frozen backbone, [N, D]; not needed by the scores of probabilities.
        """
        if self.distances is None:
            return score_probabilities(log_probabilities, self.score)
        assert features is not None
        distances = self.distances.score(features)
        if self.scales is None:
            return distances
        return add_scores(score_probabilities(log_probabilities, Score.ENTROPY), distances, self.scales)

    @property
    def program_parts(self) -> DistanceScore | None:
        """Return what a program needs that scores images so; None for scores of probabilities alone."""
        if self.distances is None:
            return None
        scales = [(one.middle, one.spread) for one in self.scales or ()]
        return DistanceScore(
            means=self.distances.means,
            whitening=self.distances.whitening,
            scales=(scales[0], scales[1]) if scales else None,
        )

    def mean(self, score: Score) -> float:
        """Mean AUROC over the hidden classes."""
        return float(np.mean([one.auroc[score] for one in self.hidden]))

    def describe(self) -> str:
        """Say in a few sentences which score it is and how well it finds classes that it does not know."""
        if np.isfinite(self.threshold):
            kept = f"The threshold calls {self.false_alarms} of known images unknown"
        else:
            kept = "No image is called unknown: a threshold that keeps 95 % needs 19 validation images"
        if self.note or self.missed is None:
            return f"Unknown classes: by the {TITLES[self.score]}; cannot be judged: {self.note}. {kept}."
        worst, num = self.hidden[0], len(self.hidden)
        which = "each class" if num == self.num_classes else f"{num} of {self.num_classes} classes"
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
            "scales": [asdict(one) for one in self.scales] if self.scales else None,
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
    scores = tuple(one for one in Score if allow_distance or not one.needs_features)
    hidden, note = hide_classes(frozen, classes=classes, scores=scores, seed=seed)
    chosen = choose_score(hidden, scores)
    distances, scales = None, None
    if chosen.needs_features:
        rows = draw_groups(frozen.train_groups, most=MOST_TRAIN, seed=seed)
        distances = fit_distances(unit_length(frozen.train[rows]), frozen.train_labels[rows], len(classes))
    if distances is not None and chosen is Score.BOTH:
        entropy = score_probabilities(log_probabilities, Score.ENTROPY)
        scales = Scale.of(entropy), Scale.of(distances.score(frozen.val))
    rule = UnknownRule(
        score=chosen,
        threshold=float("-inf"),
        hidden=tuple(sorted(hidden, key=lambda one: one.auroc[chosen])),
        num_classes=len(classes),
        false_alarms=Measured(0.0, 0.0, 1.0),
        missed=_mean_of_classes([one.missed[chosen] for one in hidden]) if hidden else None,
        note=note,
        scales=scales,
        distances=distances,
    )
    values = rule.score_images(log_probabilities, frozen.val)
    threshold = keep(values)
    return replace(
        rule, threshold=threshold, false_alarms=measure_share(values < threshold, frozen.val_groups)
    )


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
    train = draw_groups(frozen.train_groups, most=MOST_TRAIN, seed=seed)
    val = draw_groups(frozen.val_groups, most=MOST_VAL, seed=seed)
    labels, val_labels = frozen.train_labels[train], frozen.val_labels[val]
    counts = np.bincount(labels, minlength=len(classes)) + np.bincount(val_labels, minlength=len(classes))
    possible = np.flatnonzero(counts >= FEWEST_IMAGES)
    if len(possible) < 2 or len(val) < FEWEST_IMAGES:
        return [], f"fewer than two classes have {FEWEST_IMAGES} images"
    drawn = np.sort(np.random.default_rng(seed).permutation(possible)[:MOST_HIDDEN])
    units, val_units = unit_length(frozen.train[train]), unit_length(frozen.val[val])
    sums = Sums.of(units, labels, num_classes=len(classes))
    powers = sum_fourth_powers(units, labels, sums)
    hidden = []
    for number in drawn:
        own, known = units[labels == number], val_labels != number
        if not known.any():
            continue
        without = sums - Sums.of(own, np.full(len(own), number), num_classes=len(classes))
        strangers = np.concatenate([own, val_units[~known]])
        power = float(powers.sum() - powers[number])
        values = _score_hidden(without, power, val_units[known], val_labels[known], strangers, scores)
        hidden.append(
            HiddenClass(
                name=classes[number],
                auroc={score: auroc_of(*pair) for score, pair in values.items()},
                missed={score: float((pair[1] >= keep(pair[0])).mean()) for score, pair in values.items()},
            )
        )
    return hidden, "" if hidden else "no validation image is of another class"


def choose_score(hidden: Sequence[HiddenClass], scores: Sequence[Score]) -> Score:
    """Choose the first score, unless a later one's AUROC is higher by more than the classes scatter.

    That is two standard errors of the mean difference over the hidden classes.
    """
    chosen = scores[0]
    for other in scores[1:]:
        gains = np.array([one.auroc[other] - one.auroc[chosen] for one in hidden])
        if len(gains) > 1 and gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)):
            chosen = other
    return chosen


def _score_hidden(
    sums: Sums, power: float, known: Features, labels: Array, strangers: Features, scores: Sequence[Score]
) -> dict[Score, tuple[Array, Array]]:
    """Score validation images of the classes that are not hidden, and strangers, by what never saw these.

    Args:
        sums: of the training images of the classes that are not hidden.
        power: sum of the fourth powers of their distances to their class mean.
    """
    probe = fit_probe(sums)
    temperature = fit_temperature(predict_by_probe(probe, known), labels)
    predicted = [apply_temperature(predict_by_probe(probe, one), temperature) for one in (known, strangers)]
    values: dict[Score, tuple[Array, Array]] = {}
    for score in (Score.PROBABILITY, Score.ENTROPY):
        values[score] = score_probabilities(predicted[0], score), score_probabilities(predicted[1], score)
    if any(one.needs_features for one in scores):
        distances = fit_distances_to_sums(sums, power)
        values[Score.DISTANCE] = distances.score(known), distances.score(strangers)
        entropy, distance = values[Score.ENTROPY], values[Score.DISTANCE]
        scales = Scale.of(entropy[0]), Scale.of(distance[0])
        values[Score.BOTH] = (
            add_scores(entropy[0], distance[0], scales),
            add_scores(entropy[1], distance[1], scales),
        )
    return {score: values[score] for score in scores}


def predict_by_probe(probe: Probe, units: Features) -> NDArray[np.float64]:
    """Log-probabilities of features of unit length [N, D], not calibrated, [N, C]."""
    return normalise(SCORE_SCALE * probe.scores(units).astype(np.float64))


def measure_share(hits: Array, groups: Array) -> Measured:
    """Share of the images that are hit, with its 95 % interval by groups."""
    own: Array = np.unique(groups, return_inverse=True)[1]
    if int(own.max()) + 1 < len(own):
        return Measured(float(hits.mean()), *wilson_of_groups(hits.astype(float), own))
    return Measured(float(hits.mean()), *wilson(int(hits.sum()), len(hits)))


def _mean_of_classes(shares: Sequence[float]) -> Measured:
    """Mean over classes with the 95 % interval of the mean by Student's t; everything of one class."""
    from scipy.special import stdtrit  # scipy.stats takes 0.3 s to import

    mean, num = float(np.mean(shares)), len(shares)
    if num < 2:
        return Measured(mean, 0.0, 1.0)
    reach = float(stdtrit(num - 1, 0.975)) * float(np.std(shares, ddof=1)) / num**0.5
    return Measured(mean, max(0.0, mean - reach), min(1.0, mean + reach))
