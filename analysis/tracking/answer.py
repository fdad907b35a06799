"""What MLflow is told of a study's answer: tags and scores of the study's own run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from analysis.answer.record import load_answer
from analysis.answer.words import find_reading
from analysis.reading import StudyInfo
from analysis.tracking import runs
from contract.files import printable

ANSWER_TAG = "unfreeze.answer"
"""Tag with the hash of the answer and its reading that were logged, which are then not logged again."""


@dataclass(frozen=True, kw_only=True)
class AnswerRun:
    """Tags and metrics of the run of a study that has an answer."""

    tags: dict[str, str]
    points: list[runs.Point]


def describe_answer_run(study: StudyInfo) -> AnswerRun | None:
    """Collect the answer's rule, members and scores: as chosen, corrected, and of the test split if read."""
    answer = load_answer(study.paths)
    if answer is None:
        return None
    reading = find_reading(study.directory)
    values = {
        f"answer_{metric}_{name}": score[name]
        for metric, score in answer.scores.items()
        for name in ("corrected", "as_chosen", "low", "high")
    }
    tags = {
        "answer_rule": answer.rule,
        "answer_members": ", ".join(ref.name for ref in answer.refs),
        "answer_test_split": "not read" if reading is None else f"reading {reading.reading}",
    }
    if reading is not None:
        scores = reading.record["scores"]
        values |= {f"answer_test_{name}": score["value"] for name, score in scores.items()}
    moment = runs.to_milliseconds(study.paths.answer.stat().st_mtime)
    digest = hashlib.sha256(json.dumps([values, tags], sort_keys=True).encode()).hexdigest()[:16]
    shown = {name: printable(value)[-runs.MAX_TAG :] for name, value in tags.items()}
    points = [(name, float(value), moment, 0) for name, value in values.items()]
    return AnswerRun(tags=shown | {ANSWER_TAG: digest}, points=points)
