"""The served model says which images look like none of its classes, if its export has a rule for that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from analysis.answer.split_scores import score_split
from analysis.predictions import Predictions
from analysis.tracking import log_model
from analysis.tracking.served_model import ServedClassifier
from contract.model_layout import ModelPaths
from tests.study_factory import FakeTrial, make_study
from tests.tiny_models import CLASSES, encode, write_tiny_model


def write_export(folder: Path, rule: Any, *, with_program: bool = False) -> Path:
    thresholds = {"unknown": rule}
    return write_tiny_model(folder, with_scorer=with_program, thresholds=thresholds).directory


def ask(folder: Path, *images: bytes) -> pd.DataFrame:
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(folder)}))
    return model.predict(None, pd.DataFrame({"image": list(images)}))


@pytest.mark.parametrize(("score", "threshold"), [("probability", 0.9), ("entropy", -1.0)])
def test_an_image_of_even_probabilities_is_unknown(tmp_path: Path, score: str, threshold: float) -> None:
    folder = write_export(tmp_path, {"score": score, "threshold": threshold})

    answer = ask(folder, encode("red"), b"no image", encode("grey"))

    assert list(answer["known"]) == [True, None, False]
    assert list(answer["label"].notna()) == [True, False, True]


def test_a_score_of_features_comes_from_its_own_program(tmp_path: Path) -> None:
    rule = {"score": "both", "threshold": 0.5}
    folder = write_export(tmp_path, rule, with_program=True)

    answer = ask(folder, encode("red"), encode("#400000"), encode("white"))

    assert list(answer["known"]) == [True, False, True]


def test_without_a_threshold_nothing_is_told(tmp_path: Path) -> None:
    answer = ask(write_export(tmp_path, {"score": "entropy", "threshold": None}), encode("red"))

    assert list(answer["known"]) == [None]


def test_an_export_without_a_rule_answers_as_before(tmp_path: Path) -> None:
    answer = ask(write_export(tmp_path, None), encode("red"))

    assert {"label", "probability", "probabilities", "error"} <= set(answer.columns)
    assert not {"known", "set"} & set(answer.columns)


def test_the_digest_of_an_export_covers_its_second_program(tmp_path: Path) -> None:
    rule = {"score": "both", "threshold": 0.5}
    paths = ModelPaths(write_export(tmp_path, rule, with_program=True))
    before = paths.digest()
    paths.unknown.write_bytes(paths.program.read_bytes())
    changed = paths.digest()
    paths.unknown.unlink()

    assert len({before, changed, paths.digest()}) == 3


@pytest.mark.slow
def test_the_logged_model_tells_unknown_images(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = tmp_path / "export"
    folder.mkdir()
    write_export(folder, {"score": "both", "threshold": 0.5}, with_program=True)
    model_uri = log_model(make_study(tmp_path / "flowers", [FakeTrial()]), folder, uri)
    mlflow.set_tracking_uri(uri)

    model = mlflow.pyfunc.load_model(model_uri)
    answer = model.predict(pd.DataFrame({"image": [encode("red"), encode("#400000")]}))

    assert list(answer["known"]) == [True, False]
    assert "known" in model.metadata.signature.outputs.input_names()
    assert np.isfinite(answer["probability"].astype(float)).all()


def test_a_reading_of_the_test_split_states_how_many_images_are_called_unknown() -> None:
    labels = np.arange(40) % 3
    logs = np.log(np.full((40, 3), 0.1) + 0.7 * np.eye(3)[labels])
    predictions = Predictions(np.arange(40), labels, logs)
    scores = np.where(np.arange(40) < 4, -1.0, 1.0)

    record = score_split(predictions, rivals={}, classes=CLASSES, unknown=(scores, 0.0))

    assert record["unknown"]["value"] == pytest.approx(0.1)
    assert record["unknown"]["low"] < 0.1 < record["unknown"]["high"]
    assert "unknown" not in score_split(predictions, rivals={}, classes=CLASSES)
