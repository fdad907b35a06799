"""Compares a model in another format with its program on validation images, and says if it may stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.files import plural
from contract.model_answers import choose_classes

TOLERANCE = 1e-4
"""Largest difference of a probability in a format of the same precision; 1e-6 was seen."""

MOST_CHANGED = 0.05
"""Share of validation images whose label may change by int8."""

MOST_LOST = 0.01
"""Accuracy that int8 may lose on validation images."""

MOST_LOSS = 0.03
"""Log-loss that int8 may add on validation images."""

SCORE_TOLERANCE = 1e-3
"""Largest difference of a score for unknown classes, which spreads over about 1."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A format beside the program, on the same images."""

    images: int
    changed_labels: int
    largest_difference: float
    """Largest difference of a probability."""

    accuracy: float
    """The format's; of images that members were trained on, where the answer is a refit."""

    accuracy_lost: float
    """The program's less the format's."""

    log_loss: float
    log_loss_added: float

    def check_equal(self) -> None:
        """Refuse a format in which a label changes, or more than the last digits of a probability.

        Raises:
            ValueError: so it is; the message has the figures.
        """
        if self.changed_labels or not self.largest_difference <= TOLERANCE:
            raise ValueError(
                f"{self.changed_labels} of {plural(self.images, 'validation image')} get another label, and "
                f"a probability differs by {self.largest_difference:.1e} (allowed are none and {TOLERANCE:g})"
            )

    def check_near(self) -> None:
        """Refuse whole numbers of 8 bits that cost more than their margin.

        Raises:
            ValueError: so it is; the message has the figures.
        """
        is_near = (
            self.changed_labels <= MOST_CHANGED * self.images
            and self.accuracy_lost <= MOST_LOST
            and self.log_loss_added <= MOST_LOSS
        )
        if not is_near:
            raise ValueError(
                f"{self.changed_labels / self.images:.1%} of {plural(self.images, 'validation image')} get "
                f"another label, accuracy changes by {-100 * self.accuracy_lost:+.1f} points and log-loss by "
                f"{self.log_loss_added:+.3f} (allowed are {MOST_CHANGED:.0%}, {-100 * MOST_LOST:g} and "
                f"{MOST_LOSS:+g})"
            )

    def as_values(self) -> dict[str, Any]:
        """Values for the model's card."""
        return {
            "images": self.images,
            "changed_labels": self.changed_labels,
            "largest_difference": self.largest_difference,
            "accuracy": self.accuracy,
            "accuracy_lost": self.accuracy_lost,
            "log_loss": self.log_loss,
            "log_loss_added": self.log_loss_added,
        }


def compare(
    program: NDArray[np.floating],
    found: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    operating_point: float | None = None,
) -> Agreement:
    """Compare the probabilities of a format with the program's, both [N, classes].

    Args:
        labels: the true ones, [N].
        operating_point: of two classes, the probability from which on the second one is answered.
    """
    answers = [choose_classes(one, operating_point) for one in (program, found)]
    accuracies = [float((one == labels).mean()) for one in answers]
    losses = [log_loss(one, labels) for one in (program, found)]
    return Agreement(
        images=len(program),
        changed_labels=int((answers[0] != answers[1]).sum()),
        largest_difference=float(np.abs(np.subtract(found, program, dtype=np.float64)).max()),
        accuracy=accuracies[1],
        accuracy_lost=accuracies[0] - accuracies[1],
        log_loss=losses[1],
        log_loss_added=losses[1] - losses[0],
    )


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())


def check_scores(program: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Check that scores for unknown classes [N] are the program's; returns the largest difference.

    Raises:
        ValueError: they are not.
    """
    difference = float(np.abs(found - program).max(initial=0.0))
    if not difference <= SCORE_TOLERANCE:
        raise ValueError(
            f"the score for unknown classes differs by {difference:.1e} on validation images (at most "
            f"{SCORE_TOLERANCE:g} is allowed)"
        )
    return difference
