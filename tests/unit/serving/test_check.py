"""The check runs golden images through every format, and fails where one answers otherwise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contract.model_layout import ModelPaths
from serving.__main__ import main
from serving.check import compare
from tests.tiny_models import write_whole_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return write_whole_model(tmp_path_factory.mktemp("models") / "colours")


@pytest.fixture
def model(made: ModelPaths, tmp_path: Path) -> ModelPaths:
    return ModelPaths(shutil.copytree(made.directory, tmp_path / "model"))


def test_an_unchanged_model_agrees(model: ModelPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(model.directory), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    (row,) = said["formats"]
    assert (row["format"], row["changed"], row["images"], row["agrees"]) == ("pt2", 0, 8, True)
    assert row["milliseconds"] > 0
    assert row["images_per_second"] > 0
    assert said["changed_files"] == []


def test_other_probabilities_are_a_failure(model: ModelPaths, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(model.golden_facts.read_text(encoding="utf-8"))
    facts["images"][0]["probabilities"] = facts["images"][0]["probabilities"][::-1]
    model.golden_facts.write_text(json.dumps(facts), encoding="utf-8")

    assert main(["check", str(model.directory)]) == 1

    said = capsys.readouterr().out
    assert "differs" in said
    assert "golden.json is missing, or not what it was" in said


def test_a_changed_file_is_a_failure_even_if_all_answers_agree(
    model: ModelPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    model.labels.write_text("others\n", encoding="utf-8")

    assert main(["check", str(model.directory)]) == 1
    assert "labels.txt is missing, or not what it was" in capsys.readouterr().out


def test_a_damaged_program_is_named_and_fails(model: ModelPaths, capsys: pytest.CaptureFixture[str]) -> None:
    model.program.write_bytes(b"no archive")

    assert main(["check", str(model.directory), "--json"]) == 1
    assert "missing or damaged" in json.loads(capsys.readouterr().out)["formats"][0]["problem"]


@pytest.mark.parametrize("what", ["nothing", "no golden images", "another format"])
def test_what_cannot_be_checked_is_said_in_one_line(
    what: str, model: ModelPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "no golden images":
        shutil.rmtree(model.golden)
    name = tmp_path / "nowhere" if what == "nothing" else model.directory
    extra = ["--formats", "onnx"] if what == "another format" else []

    code = main(["check", str(name), *extra])

    assert code == (1 if what == "another format" else 2)
    said = capsys.readouterr()
    assert "finalize.py" in said.err + said.out or "neither a model's directory nor a study" in said.err


def test_a_label_counts_as_changed_only_beyond_the_tolerance() -> None:
    expected = np.array([[0.50004, 0.49996], [0.9, 0.1]], dtype=np.float32)
    near = np.array([[0.49998, 0.50002], [0.9, 0.1]], dtype=np.float32)
    far = np.array([[0.50004, 0.49996], [0.1, 0.9]], dtype=np.float32)

    assert compare(near, expected, tolerance=1e-4)[1] == 0
    assert compare(far, expected, tolerance=1e-4) == (pytest.approx(0.8), 1)
