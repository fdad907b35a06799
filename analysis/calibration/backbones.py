"""Judges backbones by their frozen features, before anything is trained, and says which cannot win.

Two judges look at the validation images: the nearest training images, and ridge regression on the classes'
indicators. What unfreezing adds is not known, and it can turn a lead of four points (`python -m benchmarks
backbones`), so a backbone is ruled out only where both judges put it far behind: its interval ends below
where that of the judge's best begins. Each interval is the wider of a bootstrap over groups of images, which
sees that images of a group are alike, and of Wilson's, which knows how little few images tell even if all of
them are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.probe import Features, Sums, draw_groups, fit_probe, unit_length
from analysis.predictions import Array
from contract.intervals import wilson

NEIGHBOURS = 10
"""Training images that are asked; their votes weigh by nearness."""
RESAMPLES = 2000
"""Resamples of a bootstrap."""
MOST_IMAGES = 20_000
"""Training and validation images that are looked at, each: more would not change a decision."""

Hits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of validation images, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Hits, groups: Array, *, seed: int) -> Self:
        """Measure the share of images that are right."""
        low, high = wilson(int(hits.sum()), len(hits))
        where = np.unique(groups, return_inverse=True)[1]
        sizes, right = np.bincount(where), np.bincount(where, weights=hits)
        drawn = np.random.default_rng(seed).multinomial(
            len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES
        )
        ends = np.quantile((drawn @ right) / (drawn @ sizes), (0.025, 0.975))
        return cls(value=float(hits.mean()), low=min(low, float(ends[0])), high=max(high, float(ends[1])))


@dataclass(frozen=True, kw_only=True)
class JudgedBackbone:
    """What frozen features say about one backbone."""

    name: str
    neighbours: Share | None
    """Accuracy of the nearest training images; None for a backbone without pretrained weights."""

    ridge: Share | None
    """Accuracy of ridge regression."""

    kept: bool
    why: str
    """Why it is kept or ruled out."""

    def as_values(self) -> dict[str, Any]:
        """Return plain values for study.json."""
        return asdict(self)


def judge_features(
    train: Features, train_labels: Array, val: Features, val_labels: Array, *, num_classes: int
) -> tuple[Hits, Hits]:
    """Whether the nearest neighbours, and ridge regression, are right about each validation image, [M]."""
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(
        min(NEIGHBOURS, len(train)), metric="cosine", weights="distance", algorithm="brute"
    )
    neighbours = np.asarray(nearest.fit(train, train_labels).predict(val) == val_labels)
    train, val = unit_length(train), unit_length(val)
    probe = fit_probe(Sums.of(train, train_labels, num_classes=num_classes))
    return neighbours, np.asarray(probe.scores(val).argmax(axis=1) == val_labels)


def draw_images(groups: Array, *, seed: int) -> NDArray[np.int64]:
    """Draw the images of a split that are looked at: whole groups, all where there are not too many."""
    return draw_groups(groups, most=MOST_IMAGES, seed=seed)


def choose_backbones(
    hits: Mapping[str, tuple[Hits, Hits] | None], groups: Array, *, favourite: str, seed: int = 0
) -> list[JudgedBackbone]:
    """Rule out the backbones that cannot win.

    Args:
        hits: what the two judges got right, by backbone; None for one without pretrained features.
        groups: of the validation images; images of a group are alike.
        favourite: a backbone that is kept whatever the judges say.
    """
    shares = {
        name: [Share.of(one, groups, seed=seed) for one in found] if found else None
        for name, found in hits.items()
    }
    judged = [found for found in shares.values() if found]
    # With equal values the one with the higher lower end: it rules out more, and is no less certain.
    best = [max((found[judge] for found in judged), key=lambda one: (one.value, one.low)) for judge in (0, 1)]
    return [_decide(name, found, best, is_favourite=name == favourite) for name, found in shares.items()]


def _decide(
    name: str, found: Sequence[Share] | None, best: Sequence[Share], *, is_favourite: bool
) -> JudgedBackbone:
    if found is None:
        return JudgedBackbone(
            name=name,
            neighbours=None,
            ridge=None,
            kept=True,
            why="it has no pretrained features",
        )
    is_behind = all(one.high < top.low for one, top in zip(found, best, strict=True))
    if is_favourite:
        why = "the favourite always is"
    elif is_behind:
        why = "both judges put it behind the best by more than chance"
    else:
        why = "it may win"
    return JudgedBackbone(
        name=name, neighbours=found[0], ridge=found[1], kept=is_favourite or not is_behind, why=why
    )
