"""The card of an exported model: what it answers, and how its images are made; a model takes a copy of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from contract.decoding import FULL_RANGE, DeepRange, decode_square
from contract.image_resize import resize
from contract.model_layout import ModelPaths

if TYPE_CHECKING:
    from contract.decoding import Fit, Floats


@dataclass(frozen=True, kw_only=True)
class UnknownRule:
    """How an image is told that looks like none of the classes."""

    score: str
    """Name of the score, which is low for such images."""

    threshold: float | None
    """Lowest score of a known image; None where too few images set no threshold."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What all programs of one model have in common."""

    classes: tuple[str, ...]
    """Their names, in the order of the probabilities."""

    image_size: int
    """Side in pixels of the images that the programs take."""

    storage_size: int
    """Side in pixels of the square that is decoded, of which the image is made."""

    fit: Fit
    deep: DeepRange = FULL_RANGE
    set_thresholds: Mapping[str, float]
    """Least probability of a class in a prediction set, by coverage, such as "0.90"."""

    unknown: UnknownRule | None = None
    operating_point: float | None = None
    """Probability from which on the second of two classes is answered; None answers the likelier one."""

    facts: Mapping[str, Any]
    """The whole card, with what only describes the model."""

    @classmethod
    def load(cls, model: ModelPaths) -> Self:
        """Read the card of a model.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        try:
            facts = json.loads(model.card.read_text(encoding="utf-8"))
            return cls._from_facts(facts)
        except FileNotFoundError:
            raise ValueError(f"{model.directory} holds no model: {model.card.name} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{model.card} is damaged: {error}") from error

    @classmethod
    def _from_facts(cls, facts: Mapping[str, Any]) -> Self:
        thresholds = facts.get("thresholds") or {}
        unknown = thresholds.get("unknown")
        sets = thresholds.get("prediction_sets")
        return cls(
            classes=tuple(str(name) for name in facts["classes"]),
            image_size=int(facts["image_size"]),
            storage_size=int(facts["storage_size"]),
            fit=facts["fit"],
            deep=DeepRange(*facts.get("deep_range", ())),
            set_thresholds=sets if isinstance(sets, dict) else {},
            unknown=UnknownRule(score=unknown["score"], threshold=unknown["threshold"]) if unknown else None,
            operating_point=thresholds.get("operating_point"),
            facts=facts,
        )

    def read_image(self, content: bytes | Path) -> Floats:
        """Decode an image as the search did to evaluate: float32 [3, image_size, image_size] in [0, 1].

        Raises:
            UnreadableImage: the content is no image that can be read.
            OSError: the file of a path cannot be read.
        """
        square = decode_square(content, size=self.storage_size, fit=self.fit, deep=self.deep).pixels
        if self.fit == "crop":
            margin = (self.storage_size - self.image_size) // 2
            square = square[margin : margin + self.image_size, margin : margin + self.image_size]
        else:
            square = resize(square, self.image_size)
        return (square.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)
