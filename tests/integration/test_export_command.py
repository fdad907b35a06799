"""One model gives one answer: as a program, in other formats, in MLflow, on a server, from a shell."""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.tracking.model import tracking_to
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from contract.sqlite_files import sqlite_url
from contract.study_layout import StudyPaths
from serving.model import Format, load_model
from tests.http_server import Client
from tests.odd_images import KINDS, write_image
from tests.tiny_data import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("UNFREEZE_DATA", "")) / "flowers5"
TOLERANCE = 1e-4
EXPORT = ("--rule", "single", "--export", "onnx", "timm", "int8")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Path:
    """A study of a linear head on tinted noise, or with --full on photos, with all formats of its model."""
    folder = tmp_path_factory.mktemp("formats")
    study = folder / "runs" / "demo"
    is_real = full and PHOTOS.is_dir()
    data = PHOTOS if is_real else write_images(folder / "images", images_per_class=60, side=64)
    size = "128" if is_real else "64"
    flags = ("--space", "linear_probe", "--backbones", "lite0", "--trials", "1", "--max-epochs", "4")
    places = ("--runs-dir", str(study.parent), "--cache-dir", str(folder / "cache"), "--study", "demo")
    searched = run("tune.py", *flags, "--data", str(data), "--image-size", size, *places)
    assert searched.returncode == 0, searched.stdout + searched.stderr
    made = run("finalize.py", str(study), *EXPORT)
    refused = [line for line in made.stdout.splitlines() if ": refused: " in line]
    formats = json.loads(model_of(study).card.read_text(encoding="utf-8"))["formats"]
    assert {"onnx", "timm"} <= set(formats), made.stdout + made.stderr
    assert made.returncode == len(refused) == ("int8" not in formats), made.stdout + made.stderr
    assert not any(word in made.stdout + made.stderr for word in ("Warning", "torch.onnx", "Collecting"))
    return study


@pytest.fixture(scope="module")
def files(study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The images of the test split, and one of every mode and orientation."""
    folder = tmp_path_factory.mktemp("kinds")
    odd = [write_image(folder, kind, name=f"image{number}") for number, kind in enumerate(KINDS)]
    with StudyPaths(study).manifest.open(encoding="utf-8", newline="") as file:
        return [Path(row["path"]) for row in csv.DictReader(file) if row["split"] == "test"] + odd


@pytest.fixture(scope="module")
def expected(study: Path, files: list[Path]) -> Any:
    return run_format(model_of(study), Format.PT2, files)


def model_of(study: Path) -> ModelPaths:
    return StudyPaths(study).model


def run_format(model: ModelPaths, format: Format, files: list[Path]) -> Any:
    """Probabilities [N, classes] of one format."""
    loaded = load_model(model, format, device="cpu", threads=1)
    images = [loaded.card.read_image(path) for path in files]
    chunks = [np.stack(images[start : start + 32]) for start in range(0, len(images), 32)]
    return np.concatenate([loaded.backend.probabilities(chunk) for chunk in chunks])


def run_mlflow(study: Path, files: list[Path]) -> Any:
    import mlflow
    import pandas as pd

    with tracking_to(sqlite_url(StudyPaths(study).tracking_database)):
        model = mlflow.pyfunc.load_model("models:/demo@champion")
    found = model.predict(pd.DataFrame({"image": [path.read_bytes() for path in files]}))
    assert not found["error"].notna().any()
    return as_table(found["probabilities"], study)


def run_predict(study: Path, files: list[Path]) -> Any:
    listed = study.parent / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in files), encoding="utf-8")
    out = study.parent / "found.jsonl"
    command = [sys.executable, "-m", "serving", "predict", str(study), "-", "--all", "--out", str(out)]
    with listed.open() as file:
        done = subprocess.run(command, cwd=ROOT, stdin=file, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in files]
    return as_table([row["probabilities"] for row in rows], study)


@pytest.fixture(scope="module")
def server(study: Path) -> Iterator[Client]:
    command = [sys.executable, "-m", "serving", "start", str(study), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield Client(int(line.strip("/\n").rpartition(":")[2]))
        finally:
            process.terminate()


def ask_server(client: Client, study: Path, files: list[Path]) -> Any:
    rows = []
    for start in range(0, len(files), 16):
        texts = [base64.b64encode(path.read_bytes()).decode() for path in files[start : start + 16]]
        reply = client.post("/predict", json.dumps({"images": texts}), "application/json")
        assert reply.status == 200, reply.value
        rows += reply.value["predictions"]
    return as_table([row["probabilities"] for row in rows], study)


def as_table(rows: Any, study: Path) -> Any:
    classes = ModelCard.load(model_of(study)).classes
    return np.array([[row[name] for name in classes] for row in rows])


def check_equal(found: Any, expected: Any) -> None:
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    difference = float(np.abs(found - expected).max())
    print(f"{len(found)} images, largest difference {difference:.1e}")
    assert difference <= TOLERANCE


@pytest.mark.parametrize("format", [Format.ONNX, Format.TIMM])
def test_other_formats_give_the_answers_of_the_program(
    format: Format, study: Path, files: list[Path], expected: Any
) -> None:
    check_equal(run_format(model_of(study), format, files), expected)


def test_mlflow_gives_the_answers_of_the_program(study: Path, files: list[Path], expected: Any) -> None:
    check_equal(run_mlflow(study, files), expected)


def test_the_command_line_gives_the_answers_of_the_program(
    study: Path, files: list[Path], expected: Any
) -> None:
    check_equal(run_predict(study, files), expected)


def test_the_server_gives_the_answers_of_the_program(
    study: Path, files: list[Path], expected: Any, server: Client
) -> None:
    check_equal(ask_server(server, study, files), expected)


def test_int8_is_near_where_it_was_accepted(study: Path, files: list[Path], expected: Any) -> None:
    if not model_of(study).int8.is_file():
        pytest.skip("int8 was refused for this model")
    found = run_format(model_of(study), Format.INT8, files)
    changed = float((found.argmax(axis=1) != expected.argmax(axis=1))[: -len(KINDS)].mean())
    print(f"int8: {changed:.1%} of the test labels change, largest {np.abs(found - expected).max():.2f}")
    assert changed < 0.08


def test_formats_that_are_there_are_not_written_again_and_a_refused_command_keeps_them(study: Path) -> None:
    model = model_of(study)
    written = model.onnx.stat().st_mtime_ns
    assert model.find_changed() == []

    again = run("finalize.py", str(study), *EXPORT[:-1])
    refused = run("finalize.py", str(study), "--at", "precision=0.9")  # not two classes

    assert again.returncode == 0, again.stdout + again.stderr
    assert "onnx: is there already, of this model" in again.stdout
    assert refused.returncode == 2
    assert model.onnx.stat().st_mtime_ns == written
