"""Probabilities become label, second best, set and known; base64 is read in all its spellings."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.model_answers import answer, decode_base64, needs_scores
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths

SETS = {"0.80": 0.4, "0.90": 0.2, "0.95": 0.0}


def make_card(folder: Path, classes: tuple[str, ...] = ("a", "b", "c"), **thresholds: Any) -> ModelCard:
    facts = {"classes": classes, "image_size": 8, "storage_size": 8, "fit": "crop", "thresholds": thresholds}
    (folder / "export.json").write_text(json.dumps(facts), encoding="utf-8")
    return ModelCard.load(ModelPaths(folder))


def test_the_likeliest_class_the_next_and_the_set_are_told(tmp_path: Path) -> None:
    card = make_card(tmp_path, prediction_sets=SETS)

    (found,) = answer(card, np.array([[0.25, 0.7, 0.05]]))

    assert (found.label, found.probability, found.second, found.second_probability) == ("b", 0.7, "a", 0.25)
    assert found.set == ("b", "a")
    assert found.known is None
    assert list(found.probabilities) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("coverage", "expected"), [(0.8, ("b",)), (0.9, ("b", "a")), (0.95, ("b", "a", "c"))]
)
def test_a_set_of_higher_coverage_is_larger(
    tmp_path: Path, coverage: float, expected: tuple[str, ...]
) -> None:
    card = make_card(tmp_path, prediction_sets=SETS)

    assert answer(card, np.array([[0.25, 0.7, 0.05]]), coverage=coverage)[0].set == expected


def test_a_set_always_holds_the_label(tmp_path: Path) -> None:
    card = make_card(tmp_path, prediction_sets={"0.50": 0.9})

    assert answer(card, np.array([[0.4, 0.3, 0.3]]), coverage=0.5)[0].set == ("a",)


@pytest.mark.parametrize("coverage", [0.805, 0.97, 2.0, -1.0])
def test_a_coverage_without_a_threshold_is_refused(tmp_path: Path, coverage: float) -> None:
    card = make_card(tmp_path, prediction_sets=SETS)

    with pytest.raises(ValueError, match=r"the model knows 0\.80 to 0\.95"):
        answer(card, np.array([[0.4, 0.3, 0.3]]), coverage=coverage)


def test_sets_of_a_card_without_thresholds_hold_all_classes(tmp_path: Path) -> None:
    for thresholds in ({}, {"prediction_sets": None}, {"prediction_sets": 0.3}):
        assert answer(make_card(tmp_path, **thresholds), np.array([[0.4, 0.3, 0.3]]))[0].set == (
            "a",
            "b",
            "c",
        )


def test_the_operating_point_decides_between_two_classes(tmp_path: Path) -> None:
    card = make_card(tmp_path, ("no", "yes"), operating_point=0.2)

    found = answer(card, np.array([[0.75, 0.25], [0.85, 0.15]]))

    assert [(one.label, one.probability) for one in found] == [("yes", 0.25), ("no", 0.85)]
    assert [one.second for one in found] == ["no", "yes"]


def test_unknown_images_are_told_by_probabilities_or_by_scores(tmp_path: Path) -> None:
    by_probability = make_card(tmp_path, unknown={"score": "probability", "threshold": 0.5})
    by_features = make_card(tmp_path, unknown={"score": "both", "threshold": 0.5})
    rows = np.array([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]])

    assert [one.known for one in answer(by_probability, rows)] == [True, False]
    assert [one.known for one in answer(by_features, rows, np.array([0.1, 0.9]))] == [False, True]
    assert needs_scores(by_features)
    assert not needs_scores(by_probability)
    with pytest.raises(ValueError, match=r"unknown\.pt2"):
        answer(by_features, rows)


def test_a_card_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        ModelCard.load(ModelPaths(tmp_path))
    for content in ("", "{}", "[]", '{"classes": 3}'):
        (tmp_path / "export.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="damaged"):
            ModelCard.load(ModelPaths(tmp_path))


CONTENT = bytes(range(256))


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode(),
        base64.urlsafe_b64encode(CONTENT).decode().rstrip("="),
        "data:image/png;base64," + base64.b64encode(CONTENT).decode(),
    ],
)
def test_base64_of_all_spellings_is_read(text: str) -> None:
    assert decode_base64(text) == CONTENT


def test_what_is_no_base64_is_refused() -> None:
    for text in ("*", "abcde", "ä"):
        with pytest.raises(ValueError, match="no base64"):
            decode_base64(text)
