"""How well probabilities rank the images of a class before the others: AUROC and average precision.

Of two classes the second one of the list is looked for; `--classes FILE` renames classes, and so their order.
Of more, each in turn is looked for among all others, and the mean over the classes counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Side = Literal["left", "right"]

POSITIVE = 1
"""The class of two that is looked for."""

RANKING_METRICS = ("val_auroc", "val_average_precision")

FEW = 16
"""Images of a class up to which comparing each with all others is faster than sorting."""

MOST_CELLS = 1_000_000
"""Most images x classes that are ranked after every epoch though nobody asked: 30 ms on one core.

600 x 5 take 0.2 ms, 10,000 x 300 take 0.1 s and 10,000 x 3,000 take 0.4 s.
"""

MOST_RESAMPLED = 200_000
"""Most images x classes whose metric is computed for a thousand resamples, in 2 s."""


def compute_ranking(log_probabilities: Array, labels: Array) -> dict[str, float]:
    """Compute RANKING_METRICS, exactly and with ties; {} where no class has images beside those of others.

    Args:
        log_probabilities: float32 [images, classes]; probabilities rank alike.
        labels: [images].
    """
    found = [_rank_class(scores, members) for scores, members in _classes(log_probabilities, labels)]
    if not found:
        return {}
    means = np.mean(found, axis=0)
    return dict(zip(RANKING_METRICS, map(float, means), strict=True))


def ranking_measure(log_probabilities: Array, labels: Array, metric: str) -> Callable[[Array], float] | None:
    """Return one of RANKING_METRICS as a function of the weight of each image [images].

    None where it has no value, or there are too many images and classes to compute it a thousand times.
    A class counts if the weights leave it a positive image and a negative one; the value is NaN if none does.
    """
    if log_probabilities.size > MOST_RESAMPLED:
        return None
    classes = list(_classes(log_probabilities, labels))
    if not classes:
        return None
    ranked = _Ranked(classes)
    return ranked.auroc if metric == "val_auroc" else ranked.average_precision


def _classes(log_probabilities: Array, labels: Array) -> Iterator[tuple[Array, Array]]:
    """Yield scores [images] and images of every class that is looked for, if it and others have any."""
    num_images, num_classes = log_probabilities.shape
    wanted = (POSITIVE,) if num_classes == 2 else range(num_classes)
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], np.arange(num_classes + 1))
    columns = np.ascontiguousarray(log_probabilities.T)
    for label in wanted:
        members = by_class[starts[label] : starts[label + 1]]
        if 0 < len(members) < num_images:
            yield columns[label], members


def _rank_class(scores: Array, members: Array) -> tuple[float, float]:
    """AUROC and average precision of the class that `members` are the images of."""
    own, total = scores[members], len(scores)
    if len(members) <= FEW:
        above = (scores > own[:, None]).sum(axis=1)
        reached = (scores >= own[:, None]).sum(axis=1)
    else:
        ordered = np.sort(scores)
        above = total - np.searchsorted(ordered, own, side="right")
        reached = total - np.searchsorted(ordered, own, side="left")
    positives = np.sort(own)
    hits_above = len(own) - np.searchsorted(positives, own, side="right")
    hits = len(own) - np.searchsorted(positives, own, side="left")
    negatives = total - len(own)
    beaten_by = (above - hits_above + reached - hits) / 2
    return float(1 - beaten_by.mean() / negatives), float((hits / reached).mean())


class _Ranked:
    """The images in the order of falling scores for each class, ready for any weights.

    What counts is what is ranked above each positive image of a class, and what is ranked with it: two
    sums over the first images of the order, which are the same for all images of equal scores.
    """

    def __init__(self, classes: Sequence[tuple[Array, Array]]) -> None:
        scores = np.stack([-scores for scores, _ in classes])
        self._order = np.argsort(scores, axis=1, kind="stable")
        ordered = np.take_along_axis(scores, self._order, axis=1)
        parts = [
            members[np.argsort(own[members], kind="stable")]
            for own, (_, members) in zip(scores, classes, strict=True)
        ]
        self._members = np.concatenate(parts)
        """Positive images of one class after the other, in the order of falling scores."""
        self._sizes = np.array([len(part) for part in parts])
        self._firsts = np.append(0, np.cumsum(self._sizes))
        self._above, self._reached = (self._find(ordered, scores, parts, side) for side in ("left", "right"))

    def _find(self, ordered: Array, scores: Array, parts: Sequence[Array], side: Side) -> tuple[Array, Array]:
        """Places in the sums over all images of each class, and over the positive ones, for each positive."""
        images, hits = [], []
        for number, members in enumerate(parts):
            own = scores[number, members]
            images.append(number * (ordered.shape[1] + 1) + np.searchsorted(ordered[number], own, side=side))
            hits.append(self._firsts[number] + np.searchsorted(own, own, side=side))
        return np.concatenate(images), np.concatenate(hits)

    def _sum(self, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Sums over all images [classes, images + 1] and over the positive ones, and of each class."""
        images = np.zeros((len(self._order), len(weights) + 1))
        np.cumsum(weights[self._order], axis=1, out=images[:, 1:])
        hits = np.append(0.0, np.cumsum(weights[self._members]))
        positives = hits[self._firsts[1:]] - hits[self._firsts[:-1]]
        return images, hits, positives, images[:, -1] - positives

    def auroc(self, weights: Array) -> float:
        """Chance that a positive image is ranked above a negative one, ties counting half."""
        images, hits, positives, negatives = self._sum(weights)
        before = np.repeat(hits[self._firsts[:-1]], self._sizes)
        alarms = [images.ravel()[at] - (hits[among] - before) for at, among in (self._above, self._reached)]
        beaten_by = np.add.reduceat(weights[self._members] * (alarms[0] + alarms[1]) / 2, self._firsts[:-1])
        return _mean_known(
            lambda known: 1 - beaten_by[known] / (positives * negatives)[known], positives * negatives
        )

    def average_precision(self, weights: Array) -> float:
        """Mean precision over the positive images, each at the threshold that just holds it."""
        images, hits, positives, negatives = self._sum(weights)
        at, among = self._reached
        found = hits[among] - np.repeat(hits[self._firsts[:-1]], self._sizes)
        precision = found / np.maximum(images.ravel()[at], np.finfo(float).tiny)  # 0 of an image not drawn
        total = np.add.reduceat(weights[self._members] * precision, self._firsts[:-1])
        return _mean_known(lambda known: total[known] / positives[known], positives * negatives)


def _mean_known(values: Callable[[Array], Array], counts: Array) -> float:
    """Mean over the classes of which something is counted; NaN if nothing is."""
    known = counts > 0
    return float(values(known).mean()) if known.any() else float("nan")
