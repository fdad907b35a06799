"""The answer of a study as a file: what was chosen, by which scores, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contract.answer import Combination, MemberRef
from contract.files import save_json
from contract.study_layout import StudyPaths


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was chosen of a study's candidates, with its scores."""

    rule: str
    """Rule that chose it: "single", "prefix_ensemble", "ensemble" or "mean"."""

    why: str
    """Reason for this rule, as a sentence."""

    combination: Combination
    made_of: str
    """Hash of the candidates and flags that it was made from: another one makes it a stale answer."""

    images: int
    """Number of validation images that it was chosen on."""

    groups: int
    metric: str
    scores: Mapping[str, Mapping[str, float]]
    """By metric: "as_chosen", "corrected", and the corrected one's 95% interval "low" to "high"."""

    rules: tuple[Mapping[str, Any], ...] = ()
    """All rules, the cheapest first: their scores, members, costs and the reason for or against each."""

    single: Mapping[str, Any] = field(default_factory=dict)
    """The best single trial: its kind and number, as in a member of a combination."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else was found: calibration, prediction_sets, unknown, operating_point, more_photos and others."""

    @property
    def refs(self) -> list[MemberRef]:
        """The classifiers that are combined."""
        return [member.ref for member in self.combination.members]

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("rule", "why", "made_of", "images", "groups", "metric", "scores", "rules", "single", "facts")
        return {"combination": self.combination.as_values()} | {n: getattr(self, n) for n in names}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Answer:
        """Read what `as_values` wrote."""
        changed = {
            "combination": Combination.from_values(values["combination"]),
            "rules": tuple(values["rules"]),
        }
        return cls(**{**values, **changed})


def load_answer(paths: StudyPaths) -> Answer | None:
    """Read answer.json; None if there is none, or another version wrote it."""
    try:
        return Answer.from_values(json.loads(paths.answer.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_answer(paths: StudyPaths, answer: Answer) -> None:
    """Write answer.json, wholly or not at all."""
    save_json(paths.answer, answer.as_values())
