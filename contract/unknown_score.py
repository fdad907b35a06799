"""Scores that are low for images of unknown classes; a served model takes a copy of this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAMMA, MOST_SUMMED = 0.1, 100
"""GEN's exponent and the likeliest classes that it adds up, as published for 1,000 classes."""

PROBABILITY, ENTROPY = "probability", "entropy"
"""Names of the scores of probabilities alone; others need the program `unknown.pt2`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DistanceScore:
    """What a score by the distance of frozen features is made of."""

    means: NDArray[np.float32]
    """Class means of features of unit length, [C, D], only of classes with images."""

    whitening: NDArray[np.float32]
    """[D, D]; a difference of features times it has independent entries of variance 1 within a class."""

    scales: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Median and spread of entropy and of distance, which are added up; None for the distance alone."""


def needs_features(score: str) -> bool:
    """Whether a score needs the program `unknown.pt2`, not the probabilities alone."""
    return score not in (PROBABILITY, ENTROPY)


def score_probabilities(log_probabilities: NDArray[np.floating], score: str) -> NDArray[np.float64]:
    """Score images by their log-probabilities [N, C]: low for unknown classes, [N].

    `probability` is the highest one, `entropy` is minus GEN, the generalised entropy.
    """
    values = np.asarray(log_probabilities, dtype=np.float64)
    if score == PROBABILITY:
        highest: NDArray[np.float64] = np.exp(values.max(axis=1))
        return highest
    if score != ENTROPY:
        raise ValueError(f"the score {score!r} is none of probabilities alone")
    ordered = -np.sort(-values, axis=1)
    # Of log p, because p to the 0.1th still counts where p is 1e-30. What the likeliest class leaves is added
    # up from the others: 1 - p in single precision would be 6e-8 or nothing, whose 0.1th power is 0.2 or 0.
    with np.errstate(divide="ignore"):
        others = np.log(-np.expm1(np.minimum(ordered, 0.0)))
        others[:, 0] = np.log(np.exp(ordered[:, 1:]).sum(axis=1))
    entropy: NDArray[np.float64] = np.exp(GAMMA * (ordered + others))[:, :MOST_SUMMED].sum(axis=1)
    return -entropy
