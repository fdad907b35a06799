"""Finds how images of unknown classes are told, and writes and runs the program that tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.unknown import FrozenFeatures, UnknownRule, choose_unknown_rule
from analysis.predictions import Predictions
from contract.messages import StudySettings
from contract.model_answers import needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from contract.unknown_score import needs_features, score_probabilities


@dataclass(frozen=True, eq=False, kw_only=True)
class UnknownClasses:
    """The rule for unknown classes of an answer, with what its program is made of."""

    rule: UnknownRule
    config: Mapping[str, Any]
    """Configuration of the member whose pretrained backbone gives the features."""

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """Calibrated probabilities of the validation images, [images, classes]."""

    features: NDArray[np.float32]

    @classmethod
    def choose(
        cls,
        frozen: FrozenFeatures,
        probabilities: NDArray[np.float64],
        *,
        ids: NDArray[np.int64],
        config: Mapping[str, Any],
        settings: StudySettings,
    ) -> UnknownClasses:
        """Choose the score and its threshold by the validation images."""
        rule = choose_unknown_rule(frozen, to_log(probabilities), classes=settings.classes)
        return cls(rule=rule, config=config, ids=ids, probabilities=probabilities, features=frozen.val)

    def export(self, settings: StudySettings, target: ModelPaths) -> None:
        """Write the program of a score that needs features; the others need none.

        Raises:
            ValueError: it scores otherwise than the threshold was set by.
        """
        parts = self.rule.program_parts
        if parts is None:
            return
        from trainables.export.unknown_program import ScoredImages, export_unknown_program

        scores = self.rule.score_images(to_log(self.probabilities), self.features)
        scored = ScoredImages(ids=self.ids, probabilities=self.probabilities, scores=scores)
        export_unknown_program(parts, self.config, settings, target=target, scored=scored)


def to_log(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities without infinities."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))


def needs_program(card: Mapping[str, Any]) -> bool:
    """True if the rule for unknown classes of a model's card needs a program of its own."""
    rule = (card.get("thresholds") or {}).get("unknown")
    return rule is not None and needs_features(rule["score"])


def score_test_images(
    model: ModelPaths, predictions: Predictions, settings: StudySettings
) -> tuple[NDArray[np.float64], float] | None:
    """Score the test images, [N], with the threshold; None where the model has no rule or threshold."""
    card = ModelCard.load(model)
    rule = card.unknown
    if rule is None or rule.threshold is None:
        return None
    if not needs_scores(card):
        return score_probabilities(predictions.log_probabilities, rule.score), rule.threshold
    from trainables.export.program import load_program
    from trainables.export.unknown_program import score_images

    program = load_program(model.unknown).module()
    scores = score_images(
        program,
        settings,
        "test",
        fit=card.fit,
        ids=predictions.ids,
        probabilities=predictions.probabilities,
    )
    return scores, rule.threshold
