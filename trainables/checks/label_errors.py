"""Finds images whose label is probably wrong, by what a probe and the neighbours say that never saw it.

The probe is a linear one on frozen features, fitted without the image's fold; the vote is its nearest
neighbours'. Near copies share a group, and a group is never on both sides, so that a copy with the same wrong
label does not confirm it. Which suspects to name is decided as in confident learning (Northcutt, Jiang and
Chuang 2021, arXiv:1911.00068): where another class is more probable, and as probable as it is for the images
that bear its label. It must be several times as probable, too: where nothing can be told, that rule alone
would name most images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.checks.neighbours import Features, Groups, nearest, unit_length

Labels = NDArray[np.int64]

FOLDS = 5
RIDGE = 1.0
"""Penalty as a share of the features' mean variance; 0.3 and 3 were as good or worse on three sets."""

NEIGHBOURS, NEIGHBOUR_SCALE = 20, 0.1
"""Neighbours that vote, and the difference of cosines over which a vote's weight falls to 1 / e."""

VOTE_SHARE = 0.4
"""Share of the vote in the probability; the probe has the rest. 0.3 and 0.5 were alike on three sets."""

PRINCIPAL = 128
"""Dimensions in which neighbours are searched."""

TIMES = 3.0
"""How many times as probable as the given class the suggested one must be. Where labels mean nothing, 1 names
two of three images, and 3 none; in three sets it finds as many changed labels, and names up to a quarter
fewer of the other images."""

SHOWN = 5
"""Neighbours that a suspect names."""

TEMPERATURES = np.geomspace(0.02, 1.0, 14)
SAMPLE, BLOCK = 4096, 1024


@dataclass(frozen=True)
class LabelSuspect:
    """An image whose label is probably wrong."""

    row: int
    """Position among the features."""

    suggested: int
    score: float
    """How much more probable the suggested class is than the given one, in (0, 1]."""

    neighbours: tuple[int, ...]
    """The nearest images of other groups, nearest first."""


def find_label_errors(
    features: Features, labels: Labels, groups: Groups, *, seed: int = 0
) -> list[LabelSuspect]:
    """Name the images [N] whose label is probably wrong, the surest first: see `judge_labels`."""
    return judge_labels(features, labels, groups, seed=seed)[0]


def judge_labels(
    features: Features, labels: Labels, groups: Groups, *, seed: int = 0
) -> tuple[list[LabelSuspect], NDArray[np.int64]]:
    """Name the images [N] whose label is probably wrong, the surest first, and predict every image's class.

    An image whose class has no image of another group is not judged: nothing could speak for its label.

    Args:
        features: [N, D] of a frozen backbone.
        groups: equal numbers for images that show the same.

    Returns:
        The suspects, and the most probable class of each image [N]; -1 where it is not judged.
    """
    num_classes = int(labels.max(initial=0)) + 1
    judged = _can_be_judged(labels, groups)
    if num_classes < 2 or not judged.any():
        return [], np.full(len(labels), -1, dtype=np.int64)
    centred = unit_length(
        features.astype(np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    )
    near, cosines = nearest(unit_length(_principal(centred)), groups, count=NEIGHBOURS)
    probe = _fit_probe(centred, labels, deal_folds(labels, groups, seed=seed), num_classes)
    given, suggested, best = _probabilities(centred, labels, probe, near, cosines)
    confident = _self_confidence(given, labels, judged, num_classes)
    named = judged & (best >= TIMES * given) & (best >= confident[suggested])
    rows = np.flatnonzero(named)
    rows = rows[np.argsort(given[rows] - best[rows], kind="stable")]
    predicted = np.where(best > given, suggested, labels)
    suspects = [
        LabelSuspect(
            row=int(row),
            suggested=int(suggested[row]),
            score=round(float(best[row] - given[row]), 4),
            neighbours=tuple(near[row, :SHOWN][cosines[row, :SHOWN] > -2].tolist()),
        )
        for row in rows
    ]
    return suspects, np.where(judged, predicted, -1).astype(np.int64)


def deal_folds(labels: Labels, groups: Groups, *, seed: int) -> NDArray[np.int64]:
    """Fold of every image: groups are dealt out class by class, so that each fold has a share of each."""
    unique, first, where = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(unique)), labels[first]))
    folds = np.empty(len(unique), np.int64)
    folds[order] = np.arange(len(unique)) % FOLDS
    return folds[where]


def _can_be_judged(labels: Labels, groups: Groups) -> NDArray[np.bool_]:
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)
    judged: NDArray[np.bool_] = np.bincount(pairs[:, 0])[labels] > 1
    return judged


def _principal(centred: Features) -> Features:
    """The features in the directions in which they vary most, [N, 128]."""
    if centred.shape[1] <= PRINCIPAL:
        return centred
    _, directions = np.linalg.eigh(centred.T @ centred)
    return centred @ directions[:, -PRINCIPAL:]


@dataclass(frozen=True, eq=False)
class _Probe:
    """Linear one-versus-rest scores, of each fold by the other folds' images."""

    folds: NDArray[np.int64]
    weights: list[Features]
    """[D, C] a fold."""

    offsets: list[Features]
    """[C] a fold."""

    def score(self, features: Features, rows: NDArray[np.int64]) -> Features:
        """Scores [len(rows), C]."""
        scores = np.empty((len(rows), self.offsets[0].shape[0]), np.float32)
        for fold, (weights, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
            mine = self.folds[rows] == fold
            scores[mine] = features[rows[mine]] @ weights + offset
        return scores


def _fit_probe(features: Features, labels: Labels, folds: NDArray[np.int64], num_classes: int) -> _Probe:
    """Ridge regression on the classes' indicators: exact, and as quick for 3,000 classes as for 3."""
    width = features.shape[1]
    products = [features[folds == fold].T @ features[folds == fold] for fold in range(FOLDS)]
    sums = np.stack(
        [_class_sums(features[folds == f], labels[folds == f], num_classes) for f in range(FOLDS)]
    )
    counts = np.stack([np.bincount(labels[folds == f], minlength=num_classes) for f in range(FOLDS)])
    weights, offsets = [], []
    for fold in range(FOLDS):
        count = counts.sum(0) - counts[fold]
        total = max(1, int(count.sum()))
        class_sums = sums.sum(0) - sums[fold]
        share = (count / total).astype(np.float32)
        mean = class_sums.sum(0) / total
        scatter = sum(products) - products[fold] - total * np.outer(mean, mean)
        penalty = RIDGE * float(np.trace(scatter)) / width + 1e-6
        target = (class_sums - count[:, None] * mean).T
        fitted = np.linalg.solve(scatter + penalty * np.eye(width, dtype=np.float32), target)
        weights.append(fitted.astype(np.float32))
        offsets.append((share - mean @ fitted).astype(np.float32))
    return _Probe(folds, weights, offsets)


def _class_sums(features: Features, labels: Labels, num_classes: int) -> Features:
    sums = np.zeros((num_classes, features.shape[1]), np.float32)
    np.add.at(sums, labels, features)
    return sums


def _probabilities(
    features: Features, labels: Labels, probe: _Probe, near: NDArray[np.int64], cosines: Features
) -> tuple[Features, Labels, Features]:
    """The given label's probability, the most probable other class, and that one's, for every image."""
    num = len(labels)
    sample = np.random.default_rng(0).permutation(num)[:SAMPLE]
    temperature = _fit_temperature(probe.score(features, sample), labels[sample])
    given, best = np.empty(num, np.float32), np.empty(num, np.float32)
    suggested = np.empty(num, np.int64)
    for start in range(0, num, BLOCK):
        rows = np.arange(start, min(num, start + BLOCK))
        own = np.arange(len(rows))
        probability = (1 - VOTE_SHARE) * _softmax(probe.score(features, rows) / temperature)
        weight = np.exp((cosines[rows] - cosines[rows].max(1, keepdims=True)) / NEIGHBOUR_SCALE)
        weight *= VOTE_SHARE / weight.sum(1, keepdims=True)
        for place in range(weight.shape[1]):  # a neighbour at a time: a class may get several votes
            probability[own, labels[near[rows, place]]] += weight[:, place]
        given[rows] = probability[own, labels[rows]]
        probability[own, labels[rows]] = -1
        suggested[rows] = probability.argmax(1)
        best[rows] = probability[own, suggested[rows]]
    return given, suggested, best


def _fit_temperature(scores: Features, labels: Labels) -> float:
    """The temperature by which the scores' softmax explains the labels best."""
    own = np.arange(len(labels))

    def loss(temperature: float) -> float:
        return float(-np.log(_softmax(scores / np.float32(temperature))[own, labels] + 1e-9).mean())

    return float(min(TEMPERATURES, key=loss))


def _softmax(scores: Features) -> Features:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Features = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _self_confidence(
    given: Features, labels: Labels, judged: NDArray[np.bool_], num_classes: int
) -> NDArray[np.float64]:
    """Mean probability [C] of a class for the images that bear its label; 1 where none can be judged."""
    sums = np.bincount(labels[judged], given[judged], minlength=num_classes)
    counts = np.bincount(labels[judged], minlength=num_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
