"""The workers of a trial stay for the next one, with the same results; a killed one costs one lease."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import ray
from ray.train import TrainingFailedError

from cluster.ray_tune.session import Session
from contract.messages import Report, StudySettings
from contract.study_layout import RunOutcome
from tests.integration.chaos import Chaos, snapshot
from tests.integration.process_pair import Scenario, run_scenarios
from tests.integration.served_leases import serve
from tests.integration.test_process_pair import copy_study
from tests.integration.test_search_with_ray import attributes, epochs_of, states
from tests.integration.toy_driver import make_config, run_toy_study
from tests.lone_trial import MEASURED
from tests.tiny_data import make_lease, make_settings, write_images
from trainables.distributed import DistributedTrial, WorkerGroup, failure_report
from trainables.orders import Answer
from trainables.training.checkpoints import begin_attempt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRIAL: dict[str, Any] = {"regime": "finetune", "unfreeze_depth": 1, "batch_size": 8}
LEASES = {
    "left after an epoch": make_lease(0, **TRIAL),
    "diverges": make_lease(1, **TRIAL, optimizer="sgd", learning_rate=1e30),
    "replaced": make_lease(2, **TRIAL, attempt=4),
    "broken": make_lease(3, **TRIAL | {"regime": "no such regime"}),
    "judged before its end": replace(make_lease(4, **TRIAL, kept_epoch="last"), judged_epochs=(1,)),
    "whole": make_lease(5, **TRIAL),
}
STARVED = make_lease(6, **TRIAL, head_width="1000000-1000000")
"""Its head has more weights than any machine has memory."""


def worker_pids() -> set[int]:
    """The processes of this test's Ray that train."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("group"), workers=2)


@pytest.fixture(scope="module")
def seen() -> dict[str, set[int]]:
    return {}


@pytest.fixture(scope="module")
def served(
    settings: StudySettings, seen: dict[str, set[int]], ray_session: Session
) -> Iterator[dict[str, list[Answer]]]:
    """All leases, one after the other, on one group of workers."""
    begin_attempt(settings.trial_paths(2), 5)
    group = WorkerGroup(settings)
    answers = {}
    try:
        for name, leased in LEASES.items():
            epochs = 1 if name == "left after an epoch" else None
            answers[name] = serve(group, settings, leased, epochs=epochs)
            seen[name] = worker_pids()
        with pytest.raises(TrainingFailedError) as raised:
            serve(group, settings, STARVED)
        answers["starved"] = [Answer(reports=(failure_report(STARVED, raised.value),), finished=True)]
    finally:
        group.end()
    return answers


def last_report(answers: list[Answer]) -> Report:
    return answers[-1].reports[-1]


def test_the_same_workers_serve_all_leases(
    served: dict[str, list[Answer]], seen: dict[str, set[int]]
) -> None:
    assert len(seen["whole"]) == 2
    assert {frozenset(pids) for pids in seen.values()} == {frozenset(seen["whole"])}


def test_a_trial_that_is_left_between_two_epochs_holds_nothing_up(served: dict[str, list[Answer]]) -> None:
    [answer] = served["left after an epoch"]

    assert not answer.finished
    assert [report.epoch for report in answer.reports] == [1]


@pytest.mark.parametrize(("name", "reason"), [("diverges", "diverged"), ("broken", "bug")])
def test_an_error_that_all_workers_share_is_its_trials_outcome(
    served: dict[str, list[Answer]], name: str, reason: str
) -> None:
    report = last_report(served[name])

    assert (report.outcome, report.reason) == ("failed", reason)
    assert "Traceback" in (report.traceback or "")


def test_an_error_of_torch_ends_the_workers_and_is_its_trials_outcome_with_the_right_reason(
    served: dict[str, list[Answer]],
) -> None:
    report = last_report(served["starved"])

    assert (report.outcome, report.reason) == ("failed", "out of memory")


def test_a_trial_that_is_judged_leaves_the_predictions_of_all_workers(
    served: dict[str, list[Answer]], settings: StudySettings
) -> None:
    assert [answer.finished for answer in served["judged before its end"]] == [False, True]
    assert settings.trial_paths(4).predictions.exists()


def test_an_attempt_that_was_replaced_says_nothing(served: dict[str, list[Answer]]) -> None:
    assert [(answer.reports, answer.finished) for answer in served["replaced"]] == [((), True)]


def test_workers_that_served_others_compute_what_fresh_ones_do(
    served: dict[str, list[Answer]], settings: StudySettings, tmp_path: Path
) -> None:
    elsewhere = copy_study(settings, tmp_path / "elsewhere", keep=lambda row: True)
    scenario = Scenario(name="fresh", leased=LEASES["whole"], settings=[elsewhere.as_values()] * 2)

    fresh = run_scenarios([scenario], tmp_path)["fresh"][0]["reports"]

    warm = [report.as_values() for answer in served["whole"] for report in answer.reports]
    for report in [*warm, *fresh]:
        for name in MEASURED:
            del report["metrics"][name]
    assert warm == fresh
    assert [report["epoch"] for report in warm] == [1, 2]


def test_the_end_of_a_group_frees_what_it_held(
    served: dict[str, list[Answer]], seen: dict[str, set[int]]
) -> None:
    deadline = time.monotonic() + 20
    while seen["whole"] & worker_pids() or ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    return {"backbone": "lite0", **TRIAL}


class Killer(threading.Thread):
    """Kills a worker once a trial has an epoch, and remembers the workers that there were."""

    def __init__(self, runs_dir: Path, trial: int) -> None:
        super().__init__(daemon=True)
        self.runs_dir, self.trial = runs_dir, trial
        self.workers: set[int] = set()

    def run(self) -> None:
        while not self._has_epoch():
            time.sleep(0.02)
        self.workers = worker_pids()
        os.kill(max(self.workers), signal.SIGKILL)

    def _has_epoch(self) -> bool:
        try:
            return bool(epochs_of(self.runs_dir, self.trial))
        except sqlite3.OperationalError:  # neither the file nor its tables need be there yet
            return False


@pytest.mark.usefixtures("ray_session")
def test_a_killed_worker_costs_one_lease_and_the_group_comes_back(
    settings: StudySettings, tmp_path: Path
) -> None:
    study = copy_study(settings, tmp_path / "trials", keep=lambda row: True)
    config = make_config(
        tmp_path, trials=3, concurrent=1, scheduler="none", max_epochs=5, workers_per_trial=2
    )
    killer = Killer(tmp_path, trial=1)
    killer.start()

    ending, _ = run_toy_study(config, settings=study.as_values(), trainable=DistributedTrial, space=space)

    assert ending.how is RunOutcome.FINISHED
    assert len(killer.workers) == 2
    assert states(tmp_path) == {"COMPLETE": 3}
    assert attributes(tmp_path, "attempts") == {0: 1, 1: 2, 2: 1}
    leaders = attributes(tmp_path, "worker")
    assert leaders[0] != leaders[1] == leaders[2]


def test_killed_leading_processes_and_drivers_leave_no_workers_that_hold_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    if not full:
        pytest.skip("four groups that start, which take a minute each (--full)")
    monkeypatch.setattr("tests.integration.chaos.PATIENCE_SECONDS", 300.0)
    images = write_images(tmp_path / "images", images_per_class=40)
    flags = f"--space finetune --backbones lite0 --data {images} --image-size 32 --trials 3 --max-epochs 12"
    flags += f" --workers-per-trial 2 --scheduler none --study led --runs-dir {tmp_path}"
    database = tmp_path / "led" / "study.db"
    chaos = Chaos(["tune.py", *flags.split()], database=database, cache_dir=tmp_path / "cache", seed=1)
    try:
        assert chaos.run(["worker", "driver", "worker"]) == 0, chaos.output.read_text()
    finally:
        chaos.close()

    trials = snapshot(database)
    assert {trial["outcome"] for trial in trials.values()} == {"complete"}
    assert len(trials) == 3
