"""--time-budget alone: tune.py plans, searches, and is back with a model and a report in time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_data import write_images
from tune import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BUDGET, GRACE = 240.0, 30.0
"""Seconds; a machine that runs other tests may be late, one that does nothing else is not."""


def make_flags(folder: Path, *flags: str) -> list[str]:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"), "--study", "mine")
    return ["--space", "demo", "--data", str(folder / "images"), *places, *flags]


def tune(folder: Path, *flags: str) -> tuple[subprocess.CompletedProcess[str], float]:
    words = [sys.executable, "tune.py", *make_flags(folder, *flags)]
    began = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    return done, time.monotonic() - began


def test_a_time_budget_alone_ends_with_a_model_and_the_next_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", images_per_class=14)
    assert main(make_flags(tmp_path, "--time-budget", "5s")) == 2  # refused before Ray starts
    assert "give it at least" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

    # Few trials, so that a machine that does nothing else is done sooner.
    first, seconds = tune(tmp_path, "--time-budget", f"{BUDGET:.0f}s", "--trials", "4")

    assert first.returncode == 0, first.stdout + first.stderr
    assert seconds < BUDGET + GRACE
    assert "plan for --time-budget 240s" in first.stdout and "s kept for the answer" in first.stdout
    study = tmp_path / "runs" / "mine"
    assert (study / "model" / "classifier.pt2").exists() and (study / "report.html").exists()
    info = read_info(study)
    assert set(info["planned"]) == {"image_size", "max_epochs", "backbones"}

    # Nothing of what was planned needs to be typed, with another budget or without one.
    second, _ = tune(tmp_path, "--trials", "4", "--time-budget", "1s")
    assert second.returncode == 0, second.stdout + second.stderr
    again = read_info(study)
    assert [again[name] for name in ("image_size", "max_epochs")] == [
        info[name] for name in ("image_size", "max_epochs")
    ]
    assert next(run["how"] for run in again["runs"]) in ("time budget", "finished")


def read_info(study: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((study / "study.json").read_text(encoding="utf-8"))
    return info
