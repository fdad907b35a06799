"""The main job as a user runs it: search, interrupt, continue, read the result, serve the model."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.tracking.model import tracking_to
from contract.sqlite_files import sqlite_url
from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def command(folder: Path, *flags: str) -> list[str]:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"))
    search = ("--space", "demo", "--data", str(folder / "images"), "--study", "mine", "--image-size", "32")
    return [sys.executable, "tune.py", *search, *places, *flags]


def leaderboard(folder: Path) -> list[dict[str, object]]:
    words = (sys.executable, "-m", "analysis", "leaderboard", str(folder / "runs" / "mine"), "--json")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def interrupt_after_first_trial(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "(1/4)" in line:
            process.send_signal(signal.SIGINT)
    process.wait(120)
    return shown


def test_a_search_is_interrupted_continued_and_then_only_shown(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (images / "red" / "broken.png").write_bytes(b"no image")
    words = command(tmp_path, "--trials", "4", "--max-epochs", "2", "--scheduler", "none")

    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        shown = interrupt_after_first_trial(first)
    assert first.returncode == 130, shown
    assert "broken.png" in shown
    done_before = [row["trial"] for row in leaderboard(tmp_path) if row["state"] == "complete"]

    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    rows = leaderboard(tmp_path)
    assert sorted(row["trial"] for row in rows) == [0, 1, 2, 3]
    assert all(row["state"] == "complete" and row["epochs"] == 2 for row in rows)
    for number in done_before:
        assert f"trial {number} complete" not in second.stdout
    assert json.loads((tmp_path / "runs/mine/study.json").read_text())["status"] == "finished"
    assert (tmp_path / "runs/mine/model/classifier.pt2").exists()
    assert len(list((tmp_path / "runs/mine/trials").glob("*/model.pt"))) == 4  # the finalists: all of them
    assert not list((tmp_path / "runs/mine/trials").glob("*/checkpoint*.pt"))

    third = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert third.returncode == 0
    assert "is finished" in third.stdout
    assert "val acc" in third.stdout

    model = second.stdout.partition("MLflow model: ")[2].splitlines()[0]
    check_model_answers(tmp_path, images, model=model)


def check_model_answers(folder: Path, images: Path, *, model: str) -> None:
    """Load it from MLflow, and ask it for one photo."""
    import mlflow
    import pandas as pd

    photo = base64.b64encode((images / "red" / "00.png").read_bytes()).decode()
    with tracking_to(sqlite_url(folder / "runs" / "mlflow.db")):
        loaded = mlflow.pyfunc.load_model(model)
    (answer,) = loaded.predict(pd.DataFrame({"image": [photo]})).to_dict("records")
    assert answer["label"] in ("blue", "green", "red")
    assert answer["probability"] == pytest.approx(max(answer["probabilities"].values()))
