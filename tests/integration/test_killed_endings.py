"""kill -9 between a study's last trial and its end: the same line makes report, model and MLflow's view."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.report import is_current
from tests.tiny_data import write_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRIALS = 2


def make_command(folder: Path) -> list[str]:
    places = ("--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache"))
    search = ("--space", "demo", "--data", str(folder / "images"), "--study", "mine", "--image-size", "32")
    limits = ("--trials", str(TRIALS), "--max-epochs", "1", "--scheduler", "none")
    return [sys.executable, "tune.py", *search, *places, *limits]


def run(words: list[str]) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def take_results_away(runs_dir: Path) -> None:
    """As if the last trial had just ended: no model, no report, nothing in MLflow, the status of a search."""
    study = runs_dir / "mine"
    shutil.rmtree(study / "model", ignore_errors=True)
    (study / "report.html").unlink(missing_ok=True)
    shutil.rmtree(runs_dir / "mlartifacts", ignore_errors=True)
    for path in runs_dir.glob("mlflow.db*"):
        path.unlink()
    facts = json.loads((study / "study.json").read_text(encoding="utf-8"))
    facts["status"] = "running"
    (study / "study.json").write_text(json.dumps(facts), encoding="utf-8")


def check_results(runs_dir: Path) -> None:
    from mlflow.tracking import MlflowClient

    study = runs_dir / "mine"
    assert json.loads((study / "study.json").read_text(encoding="utf-8"))["status"] == "finished"
    assert {path.name for path in (study / "model").iterdir()} >= {"classifier.pt2", "export.json"}
    assert is_current(study)
    assert not list(study.glob(".model*"))
    client = MlflowClient(f"sqlite:///{runs_dir / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'mine'")
    found = client.search_runs([experiment.experiment_id])
    assert [one.info.status for one in found] == ["FINISHED"] * (TRIALS + 1)
    (parent,) = (one for one in found if "unfreeze.report" in one.data.tags)
    assert client.get_run(parent.info.run_id).data.tags["unfreeze.model"]
    assert client.search_model_versions("name = 'mine'")


def kill_when(words: list[str], reached: Callable[[], bool]) -> None:
    """Kill the command as soon as `reached`, before it has come to its end."""
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not reached():
            assert process.poll() is None, "it came to its end before"
            time.sleep(0.002)
        process.kill()


@pytest.mark.timeout(1200)
def test_kills_after_the_last_trial_lose_nothing(tmp_path: Path, full: bool) -> None:
    """Killed as it exports the model, then as it writes MLflow; with --full at ten moments more."""
    write_images(tmp_path / "images")
    words, runs_dir = make_command(tmp_path), tmp_path / "runs"
    run(words)
    take_results_away(runs_dir)
    kill_when(words, lambda: bool(list((runs_dir / "mine").glob(".model*"))))
    kill_when(words, (runs_dir / "mlflow.db").exists)
    began = time.monotonic()
    run(words)
    whole_ending = time.monotonic() - began
    check_results(runs_dir)

    dice = random.Random(12)
    for _ in range(10 if full else 0):
        take_results_away(runs_dir)
        with subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(dice.uniform(0.2, 1.0) * whole_ending)
            process.kill()
        run(words)
        check_results(runs_dir)
