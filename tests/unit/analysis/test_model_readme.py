"""A model's README says what it is, in the form that the model hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.answer.model_readme import ModelFacts, render_readme
from analysis.reading import load_study
from analysis.readings import TestReading
from tests.study_factory import CLASSES, FakeTrial, make_study

SCORES = {
    "val_accuracy": {"as_chosen": 0.94, "corrected": 0.93, "low": 0.9, "high": 0.95},
    "val_loss": {"as_chosen": 0.2, "corrected": 0.22, "low": 0.17, "high": 0.27},
}
CARD: dict[str, Any] = {
    "classes": list(CLASSES),
    "image_size": 32,
    "fit": "pad",
    "rule": "ensemble",
    "members": [{"number": 0}, {"number": 1}],
    "licences": {"lite0": "apache-2.0"},
    "scores": SCORES,
}


def render(tmp_path: Path, card: dict[str, Any], reading: TestReading | None = None) -> tuple[Any, str]:
    study = load_study(make_study(tmp_path / "flowers", [FakeTrial()]))
    text = render_readme(ModelFacts(card=card, study=study, said=["It misses cats."], reading=reading))
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def list_values(result: Any) -> list[tuple[str, float]]:
    return [(one["type"], one["value"]) for one in result["metrics"]]


def make_reading(number: int) -> TestReading:
    score = {"value": 0.91, "low": 0.88, "high": 0.94}
    return TestReading(
        reading=number,
        created=0.0,
        digest="d",
        rule="ensemble",
        images=300,
        record={"scores": {"accuracy": score, "macro_f1": score}},
    )


def test_scores_stand_in_the_model_index_with_their_intervals(tmp_path: Path) -> None:
    metadata, body = render(tmp_path, CARD, make_reading(1))

    validation, test = metadata["model-index"][0]["results"]
    assert validation["dataset"]["split"] == "validation"
    assert [(one["type"], one["value"]) for one in validation["metrics"]] == [
        ("accuracy", 0.93),
        ("loss", 0.22),
    ]
    assert "95% interval 90.0% to 95.0%" in validation["metrics"][0]["name"]
    assert [(one["type"], one["value"]) for one in test["metrics"]] == [
        ("accuracy", 0.91),
        ("macro_f1", 0.91),
    ]
    assert metadata["license"] == "apache-2.0"
    assert "| accuracy | 94.0% | 93.0% (90.0% to 95.0%) | 91.0% (88.0% to 94.0%) |" in body
    assert "an ensemble" in body
    assert "- It misses cats." in body


def test_a_later_reading_is_marked_wherever_it_stands(tmp_path: Path) -> None:
    metadata, body = render(tmp_path, CARD, make_reading(2))

    assert "reading number 2" in metadata["model-index"][0]["results"][1]["metrics"][0]["name"]
    assert "reading number 2" in body


def test_without_scores_and_reading_it_is_still_a_card(tmp_path: Path) -> None:
    metadata, body = render(tmp_path, {**CARD, "scores": {}, "licences": {}, "rule": "cascade"})

    assert metadata["license"] == "other"
    assert "a cascade of two models" in body
    json.dumps(metadata)


@pytest.mark.parametrize("name", ["it's", "a|b", 'quoted "', "naïve: yes", "#1"])
def test_odd_names_of_classes_leave_the_metadata_readable(tmp_path: Path, name: str) -> None:
    metadata, body = render(tmp_path, {**CARD, "classes": [name, "other"]})

    assert metadata["pipeline_tag"] == "image-classification"
    assert name in body
