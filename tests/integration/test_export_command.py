"""finalize.py --export, as users run it: every format gives the test images the labels of the program."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.model_layout import ModelPaths
from contract.study_layout import StudyPaths
from serving.model import Format, load_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )


def files_of_test_split(study: Path) -> list[Path]:
    with StudyPaths(study).manifest.open(encoding="utf-8", newline="") as file:
        return [Path(row["path"]) for row in csv.DictReader(file) if row["split"] == "test"]


def probabilities(model: ModelPaths, format: Format, files: list[Path]) -> Any:
    loaded = load_model(model, format, device="cpu", threads=1)
    images = [loaded.card.read_image(path) for path in files]
    chunks = [np.stack(images[start : start + 32]) for start in range(0, len(images), 32)]
    return np.concatenate([loaded.backend.probabilities(chunk) for chunk in chunks])


@pytest.mark.timeout(1800)
def test_the_formats_of_a_searched_study_label_its_test_images_alike(tmp_path: Path) -> None:
    study, model = tmp_path / "runs" / "demo", StudyPaths(tmp_path / "runs" / "demo").model
    flags = ("--space", "demo", "--study", "demo", "--trials", "2", "--max-epochs", "4", "--image-size", "64")
    places = ("--runs-dir", str(study.parent), "--cache-dir", str(tmp_path / "cache"))
    searched = run("tune.py", *flags, *places)
    assert searched.returncode == 0, searched.stdout + searched.stderr
    command = ("finalize.py", str(study), "--rule", "single", "--export", "onnx", "timm", "int8")

    made = run(*command)

    formats = json.loads(model.card.read_text(encoding="utf-8"))["formats"]
    refused = [line for line in made.stdout.splitlines() if ": refused: " in line]
    assert {"onnx", "timm"} <= set(formats), made.stdout + made.stderr
    assert made.returncode == len(refused) == ("int8" not in formats), made.stdout + made.stderr
    assert model.find_changed() == []
    assert not any(word in made.stdout + made.stderr for word in ("Warning", "torch.onnx", "Collecting"))
    files = files_of_test_split(study)
    expected = probabilities(model, Format.PT2, files)
    for name in (Format.ONNX, Format.TIMM):
        found = probabilities(model, name, files)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        assert np.abs(found - expected).max() < 1e-4
    if "int8" in formats:
        found = probabilities(model, Format.INT8, files)
        assert (found.argmax(axis=1) != expected.argmax(axis=1)).mean() < 0.06
    written = model.onnx.stat().st_mtime_ns

    again = run(*command[:-1])

    assert again.returncode == 0, again.stdout + again.stderr
    assert "onnx: is there already, of this model" in again.stdout
    assert model.onnx.stat().st_mtime_ns == written

    other = run("finalize.py", str(study), "--at", "precision=0.9")  # ten classes: refused, nothing is lost
    assert other.returncode == 2
    assert model.onnx.stat().st_mtime_ns == written
