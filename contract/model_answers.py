"""Turns a model's probabilities into what people ask for; a model takes a copy of this file."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from contract.unknown_score import needs_features, score_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from contract.model_card import ModelCard

DEFAULT_COVERAGE = 0.9
"""Share of new images whose prediction set holds their class."""


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """What a model says of one image."""

    label: str
    probability: float
    second: str | None
    """The class that comes next; None of a model with one class."""

    second_probability: float | None
    set: tuple[str, ...]
    """Prediction set: the classes probable enough to hold the true one at the coverage that was asked for."""

    known: bool | None
    """False if the image looks like none of the classes; None of a model that cannot tell."""

    probabilities: dict[str, float]
    """Probability of each class, in the model's order."""

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "set": list(self.set)}


def answer(
    card: ModelCard,
    probabilities: NDArray[np.floating],
    scores: NDArray[np.floating] | None = None,
    *,
    coverage: float = DEFAULT_COVERAGE,
) -> list[ImageAnswer]:
    """Answer for images, given their probabilities [N, classes].

    Args:
        scores: of the program for unknown classes [N], for a card that `needs_scores`.

    Raises:
        ValueError: the card has no threshold for this coverage.
    """
    least = find_set_threshold(card, coverage)
    known = tell_known(card, probabilities, scores)
    chosen = choose_classes(probabilities, card.operating_point)
    found = []
    for values, is_known, first in zip(probabilities.tolist(), known, chosen.tolist(), strict=True):
        # The answered class first: at an operating point it may be the less likely one.
        order = sorted(range(len(values)), key=lambda number: (number != first, -values[number]))
        second = order[1] if len(order) > 1 else None
        inside = tuple(card.classes[one] for one in order if one == order[0] or values[one] >= least)
        found.append(
            ImageAnswer(
                label=card.classes[order[0]],
                probability=values[order[0]],
                second=None if second is None else card.classes[second],
                second_probability=None if second is None else values[second],
                set=inside,
                known=is_known,
                probabilities=dict(zip(card.classes, values, strict=True)),
            )
        )
    return found


def choose_classes(probabilities: NDArray[np.floating], operating_point: float | None) -> NDArray[np.int64]:
    """Choose the class that is answered for each image, [N], given probabilities [N, classes].

    Args:
        operating_point: probability from which on the second of two classes is answered; None = the likelier.
    """
    if operating_point is not None:
        return (probabilities[:, 1] >= operating_point).astype(np.int64)
    likeliest: NDArray[np.int64] = probabilities.argmax(axis=1)
    return likeliest


def find_set_threshold(card: ModelCard, coverage: float) -> float:
    """Find the least probability of a class in a prediction set; 0, for all classes, of a card without any.

    Raises:
        ValueError: the card has thresholds, but none for this coverage.
    """
    if not card.set_thresholds:
        return 0.0
    found = card.set_thresholds.get(f"{coverage:.2f}")
    if found is None or abs(coverage - round(coverage, 2)) > 1e-9:
        known = sorted(card.set_thresholds)
        raise ValueError(f"coverage {coverage:g}: the model knows {known[0]} to {known[-1]} in steps of 0.01")
    return found


def needs_scores(card: ModelCard) -> bool:
    """Whether unknown classes are told by the program for them, not by the probabilities alone."""
    return card.unknown is not None and needs_features(card.unknown.score)


def tell_known(
    card: ModelCard, probabilities: NDArray[np.floating], scores: NDArray[np.floating] | None
) -> list[bool | None]:
    """Tell which images look like one of the classes; None for all where the model cannot tell.

    Raises:
        ValueError: the card `needs_scores`, and there are none.
    """
    rule = card.unknown
    if rule is None or rule.threshold is None:
        return [None] * len(probabilities)
    if not needs_scores(card):
        logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        scores = score_probabilities(logarithms, rule.score)
    elif scores is None:
        raise ValueError("the program for unknown classes, unknown.pt2 or unknown.onnx, is needed")
    assert scores is not None
    return [bool(one >= rule.threshold) for one in scores]


def decode_base64(text: str) -> bytes:
    """Decode base64 as browsers, mail programs and `base64` write it: of either alphabet, with or without
    line breaks, padding and a data: prefix.

    Raises:
        ValueError: the text is no base64.
    """
    if text.lstrip()[:5].lower() == "data:":
        text = unquote(text.partition(",")[2])
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"no base64: {error}") from error
