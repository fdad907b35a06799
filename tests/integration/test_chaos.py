"""A search killed again and again ends like one that never was: nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cluster.schedulers import Curves, even_shares, load_scheduler
from tests.integration.chaos import Chaos, attributes, query, snapshot

TOY = Path(__file__).with_name("toy_driver.py")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred real images of ten classes, so that an epoch takes a fraction of a second."""
    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for index in range(200):
        label = folder / str(digits.target[index])
        label.mkdir(exist_ok=True)
        pixels = (digits.images[index] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(label / f"{index}.png")
    return folder


@pytest.fixture
def opened() -> Iterator[list[Chaos]]:
    """Whatever a test starts is ended with it."""
    started: list[Chaos] = []
    yield started
    for chaos in started:
        chaos.close()


def kinds(num: int) -> list[str]:
    """Driver and worker alternate; now and then the whole machine."""
    return ["everything" if at % 8 == 6 else ("driver", "worker")[at % 2] for at in range(num)]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_real_command_killed_anywhere_ends_with_the_very_same_trials(
    tmp_path: Path, photos: Path, opened: list[Chaos], full: bool
) -> None:
    num_trials, num_kills = (40, 20) if full else (14, 2)  # the sampler learns from the eleventh on
    runs = {}
    for name, kills in (("undisturbed", []), ("disturbed", kinds(num_kills))):
        flags = (
            f"--space linear_probe --backbones lite0 --data {photos} --image-size 32 --trials {num_trials}"
        )
        flags += f" --max-epochs 9 --concurrent 1 --study {name} --runs-dir {tmp_path} --seed 3"
        database = tmp_path / name / "study.db"
        chaos = Chaos(["tune.py", *flags.split()], database=database, cache_dir=tmp_path / "cache", seed=1)
        opened.append(chaos)
        if kills:
            assert chaos.run(kills) == 0, chaos.output.read_text()
        else:
            chaos.search(num_trials)
        runs[name] = snapshot(database)

    assert sorted(runs["disturbed"]) == list(range(num_trials))
    for number, trial in runs["undisturbed"].items():
        assert runs["disturbed"][number] == trial
    assert_mlflow_equals_database(tmp_path, "disturbed")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("scheduler", ["asha", "promotion_asha", "evidence"])
def test_four_at_once_killed_anywhere_lose_and_double_nothing(
    tmp_path: Path, opened: list[Chaos], scheduler: str, full: bool
) -> None:
    if scheduler != "asha" and not full:
        pytest.skip("--full: the life-cycle contract covers it without processes")
    num_trials, num_kills = (60, 20) if full else (16, 2)
    settings = json.dumps({"seconds": 0.1, "log": str(tmp_path / "epochs.log")})
    flags = ["--runs-dir", str(tmp_path), "--trials", str(num_trials), "--concurrent", "4"]
    flags += ["--cpus-per-trial", "0.5", "--scheduler", scheduler, "--settings", settings]
    database = tmp_path / "toy" / "study.db"
    chaos = Chaos([str(TOY), *flags], database=database, cache_dir=tmp_path / "cache", seed=2)
    opened.append(chaos)

    assert chaos.run(kinds(num_kills)) == 0, chaos.output.read_text()

    trials = snapshot(database)
    assert sorted(trials) == list(range(num_trials))
    assert {trial["outcome"] for trial in trials.values()} <= {"complete", "pruned"}
    assert max(attributes(database, "attempts").values()) > 1
    assert chaos.recorded
    assert chaos.recorded <= set(query(database, "SELECT trial, epoch FROM epochs"))
    assert_rungs_consistent(database, scheduler)
    assert_mlflow_equals_database(tmp_path, "toy")


def assert_rungs_consistent(database: Path, scheduler: str) -> None:
    """In the order of arrival, every decision is what the scheduler says of what was recorded before it."""
    decide = load_scheduler(scheduler).decide
    words = {"continue": "continue", "pause": "pause", "stop": "stop", "complete": "continue"}
    curves = Curves(shares_of=lambda _: even_shares(9))
    rows = query(database, "SELECT trial, epoch, metrics, decision, attempt FROM epochs ORDER BY arrival")
    for trial, epoch, metrics, decision, attempt in rows:
        assert epoch == len(curves.get(trial, {})) + 1, f"trial {trial} lacks epoch {epoch - 1}"
        curves.note(trial, epoch, json.loads(metrics)["val_accuracy"])
        said = decide(trial=trial, epoch=epoch, curves=curves, seed=0)
        # A promoted trial that lost its checkpoint runs through the rung again, and does not wait twice.
        is_promoted = said == "pause" and decision == "continue" and attempt > 1
        assert words[decision] == said or is_promoted, f"trial {trial} epoch {epoch}"


def assert_mlflow_equals_database(runs_dir: Path, study: str) -> None:
    from mlflow import MlflowClient

    from analysis.tracking import sync

    sync(runs_dir / study)
    client = MlflowClient(f"sqlite:///{runs_dir}/mlflow.db")
    experiments = [e for e in client.search_experiments() if e.name == study]
    assert len(experiments) == 1
    runs = client.search_runs([experiments[0].experiment_id], max_results=1000)
    logged: dict[int, Any] = {}
    for run in runs:
        if "unfreeze.trial" not in run.data.tags:
            continue
        number = int(run.data.tags["unfreeze.trial"])
        assert number not in logged, f"trial {number} is in MLflow twice"
        logged[number] = run
    trials = snapshot(runs_dir / study / "study.db")
    assert sorted(logged) == sorted(trials)
    for number, trial in trials.items():
        run = logged[number]
        assert run.data.tags["state"] == trial["outcome"]
        assert run.data.metrics["best_val_accuracy"] == pytest.approx(trial["values"][0][0])
        last = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert [(point.step, point.value) for point in last] == [(e, v) for e, v, _ in trial["curve"]]
