"""The MLflow view against a real MLflow on SQLite: complete, idempotent, repaired, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from analysis.reading import load_study
from analysis.report import write_report
from analysis.tracking import Tracker, sync
from analysis.tracking.server import find_tracking_uri, only_writer
from analysis.tracking.writer import ViewWriter
from contract.metrics import METRICS, Metric, Unit
from tests.study_factory import FakeTrial, add_trials, end_trial, make_study, record_epochs

mlflow = pytest.importorskip("mlflow")
ROOT = Path(__file__).parents[2]
NAN = float("nan")
NEVER = 3600.0
"""Seconds: the suite's own limit for a test ends it long before."""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take 2 s to create: once, then copied."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs_dir(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def warned() -> Iterator[threading.Event]:
    """Set once the tracker has warned."""
    event = threading.Event()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: event.set()  # type: ignore[method-assign]
    logging.getLogger("unfreeze").addHandler(handler)
    yield event
    logging.getLogger("unfreeze").removeHandler(handler)


@contextmanager
def following(directory: Path, uri: str | None = None) -> Iterator[Tracker]:
    tracker = Tracker(directory, uri, poll_seconds=0.05)
    tracker.start()
    try:
        yield tracker
    finally:
        tracker.close()


def wait_for_runs(runs_dir: Path, number: int) -> None:
    with closing(sqlite3.connect(runs_dir / "mlflow.db")) as database:
        while database.execute("SELECT COUNT(*) FROM runs").fetchone()[0] < number:
            time.sleep(0.05)


def client_of(runs_dir: Path) -> Any:
    return mlflow.MlflowClient(f"sqlite:///{runs_dir / 'mlflow.db'}")


def runs_of(runs_dir: Path, study: str) -> tuple[Any, dict[int, Any]]:
    """The study's own run, and its trials' by number."""
    client = client_of(runs_dir)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in found if "unfreeze.trial" not in run.data.tags]
    trials = {int(run.data.tags["unfreeze.trial"]): run for run in found if "unfreeze.trial" in run.data.tags}
    assert len(parents) == 1
    assert len(trials) == len(found) - 1
    return parents[0], trials


def dump(runs_dir: Path) -> set[str]:
    return set(sqlite3.connect(runs_dir / "mlflow.db").iterdump())


def mixed_trials() -> list[FakeTrial]:
    diverged = {"reason": "diverged", "traceback": "x" * 20_000 + " the end"}
    return [
        FakeTrial(curve=[0.3, 0.6, 0.5], config={"policy": "light"}, attributes={"recipe": "bit"}),
        FakeTrial(curve=[0.5, NAN], outcome="failed", attributes=diverged),
        FakeTrial(curve=[0.4], outcome="pruned"),
        FakeTrial(curve=[0.7], outcome=None),
        FakeTrial(curve=[], outcome="infeasible"),
    ]


def test_every_trial_is_a_nested_run_with_its_parameters_tags_and_status(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())

    sync(directory)

    parent, trials = runs_of(runs_dir, "s")
    assert {number: run.info.status for number, run in trials.items()} == {
        0: "FINISHED", 1: "FAILED", 2: "FINISHED", 3: "RUNNING", 4: "KILLED",
    }  # fmt: skip
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in trials.values())
    first = trials[0]
    assert first.info.run_name == "000 lite0 finetune d1"
    assert first.data.params["policy"] == "light"
    assert first.data.params["max_epochs"] == "10"
    assert (first.data.tags["state"], first.data.tags["recipe"], first.data.tags["backbone"]) == (
        "complete",
        "bit",
        "lite0",
    )
    assert trials[1].data.tags["reason"] == "diverged"
    assert trials[1].data.tags["traceback"].endswith(" the end")


def test_metric_histories_have_epochs_as_steps_and_the_best_value_last(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())

    sync(directory)

    _, trials = runs_of(runs_dir, "s")
    history = client_of(runs_dir).get_metric_history(trials[0].info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.3), (2, 0.6), (3, 0.5)]
    assert trials[0].data.metrics["best_val_accuracy"] == 0.6
    assert trials[0].data.metrics["val_accuracy"] == 0.5


def test_a_new_metric_that_is_minimised_has_its_lowest_value_as_the_best(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Metric(name="val_ece", title="val ece", unit=Unit.SHARE, meaning="of a test", maximize=False)
    monkeypatch.setitem(METRICS, "val_ece", row)
    trials = [
        FakeTrial(curve=[0.9, 0.9], metrics={"val_ece": [0.3, 0.2]}),
        FakeTrial(metrics={"val_ece": [0.1]}),
    ]
    directory = make_study(runs_dir / "s", trials, metric="val_ece", direction=row.direction.value)

    sync(directory)
    page = write_report(directory).read_text(encoding="utf-8")

    parent, runs = runs_of(runs_dir, "s")
    assert (runs[0].data.metrics["best_val_ece"], runs[0].data.metrics["val_ece"]) == (0.2, 0.2)
    assert (parent.data.metrics["best_val_ece"], parent.data.tags["best_trial"]) == (0.1, "1")
    assert "val_ece" not in runs[0].data.params
    assert "Trial 1 is best" in page and "val_ece 10.0% at epoch 1" in page


def test_a_study_without_images_leaves_no_photo_in_mlflow(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials(), no_images=True)
    table = directory / "data.csv"
    table.write_text(
        table.read_text(encoding="utf-8").replace("/photos/flowers", str(runs_dir)), encoding="utf-8"
    )
    for number in range(38):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(runs_dir / f"{number}.jpg")
    write_report(directory)

    sync(directory)

    files = [path for path in (runs_dir / "mlartifacts").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["report.html"]
    page = re.sub(r"<script>.*?</script>", "", files[0].read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"data:image/(jpeg|png|webp)", page) and "shows no photo" in page


def test_the_study_run_holds_the_summary(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())

    sync(directory)

    parent, _ = runs_of(runs_dir, "s")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_val_accuracy"] == 0.6
    assert parent.data.metrics["trials_failed"] == 1
    assert parent.data.tags["best_trial"] == "0"
    assert parent.data.params["space"] == "finetune"
    assert parent.data.params["data"] == "/photos/flowers"


def test_the_study_run_has_the_data_set_and_the_newest_report(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()])
    (directory / "report.html").write_text("first")
    sync(directory)
    before = dump(runs_dir)
    sync(directory)
    unchanged = dump(runs_dir) == before
    (directory / "report.html").write_text("second")

    sync(directory)

    parent, _ = runs_of(runs_dir, "s")
    (used,) = parent.inputs.dataset_inputs
    assert unchanged
    assert (used.dataset.name, used.dataset.digest) == ("flowers", "split 0 of c1")
    assert '"num_val": 30' in used.dataset.profile
    logged = client_of(runs_dir).download_artifacts(parent.info.run_id, "report.html")
    assert Path(logged).read_text() == "second"


def test_the_experiment_opens_as_a_leaderboard(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()], metric="val_loss", direction="minimize")

    sync(directory)

    tags = client_of(runs_dir).get_experiment_by_name("s").tags
    view = json.loads(tags["mlflow.sharedViewState.leaderboard"])
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_val_loss`", True)
    assert "params.`learning_rate`" in view["selectedColumns"]


def test_a_second_sync_changes_nothing(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())
    sync(directory)
    before = dump(runs_dir)

    message = sync(directory)

    assert dump(runs_dir) == before
    assert "up to date" in message


def test_a_sync_that_died_before_its_mark_writes_the_same_rows(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())
    sync(directory)
    before = dump(runs_dir)
    client = client_of(runs_dir)
    _, trials = runs_of(runs_dir, "s")
    client.set_tag(trials[0].info.run_id, "unfreeze.epochs", "0")
    client.set_tag(trials[1].info.run_id, "unfreeze.epochs", "1")

    sync(directory)

    assert dump(runs_dir) ^ before == set()


def test_a_study_that_grows_between_syncs_gets_only_what_is_new(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial(curve=[0.2], outcome=None)], status="running")
    sync(directory)
    _, first = runs_of(runs_dir, "s")
    record_epochs(directory, 0, [0.5, 0.4], first_epoch=2)
    end_trial(directory, 0, outcome="complete", value=0.5)
    add_trials(directory, [FakeTrial(curve=[0.9])])

    sync(directory)

    parent, trials = runs_of(runs_dir, "s")
    assert trials[0].info.run_id == first[0].info.run_id
    assert (trials[0].info.status, trials[0].data.metrics["best_val_accuracy"]) == ("FINISHED", 0.5)
    assert parent.info.status == "RUNNING"
    assert parent.data.metrics["best_val_accuracy"] == 0.9
    history = client_of(runs_dir).get_metric_history(trials[0].info.run_id, "best_val_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.2), (2, 0.5)]


def test_runs_deleted_in_the_ui_come_back_as_they_were(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", mixed_trials())
    sync(directory)
    parent, trials = runs_of(runs_dir, "s")
    client = client_of(runs_dir)
    for run_id in (parent.info.run_id, trials[2].info.run_id):
        client.delete_run(run_id)

    sync(directory)

    again, restored = runs_of(runs_dir, "s")
    assert again.info.run_id == parent.info.run_id
    assert restored.keys() == trials.keys()


def test_a_deleted_experiment_comes_back(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()])
    sync(directory)
    client = client_of(runs_dir)
    client.delete_experiment(client.get_experiment_by_name("s").experiment_id)

    sync(directory)

    assert len(runs_of(runs_dir, "s")[1]) == 1


def test_trials_whose_parent_is_gone_for_good_get_a_new_one(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial(), FakeTrial()])
    sync(directory)
    parent, _ = runs_of(runs_dir, "s")
    connection = sqlite3.connect(runs_dir / "mlflow.db")
    for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
        connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [parent.info.run_id])
    connection.commit()
    connection.close()

    sync(directory)

    again, trials = runs_of(runs_dir, "s")
    assert again.data.metrics["trials_complete"] == 2
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {again.info.run_id}


def test_names_of_any_alphabet_and_quotes_work(runs_dir: Path) -> None:
    name = "blumen é'\"花 %20 #1"
    directory = make_study(runs_dir / name, [FakeTrial()])
    sync(directory)

    message = sync(directory)

    assert "up to date" in message
    assert len(runs_of(runs_dir, name)[1]) == 1


def test_a_new_study_of_an_old_name_gets_its_own_runs(runs_dir: Path) -> None:
    sync(make_study(runs_dir / "a" / "s", [FakeTrial()]), f"sqlite:///{runs_dir / 'mlflow.db'}")
    later = make_study(runs_dir / "b" / "s", [FakeTrial()], created="2026-02-02T00:00:00")

    sync(later, f"sqlite:///{runs_dir / 'mlflow.db'}")

    client = client_of(runs_dir)
    found = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert len(found) == 4


def test_the_process_writes_a_study_as_it_grows_and_then_runs_calls(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [], status="running")
    with following(directory) as tracker:
        add_trials(directory, [FakeTrial(curve=[0.2], outcome=None)])
        wait_for_runs(runs_dir, 2)
        record_epochs(directory, 0, [0.6], first_epoch=2)
        end_trial(directory, 0, outcome="complete", value=0.6)

        is_complete = tracker.finish(timeout=NEVER)
        where = (tracker.pid, tracker.call(os.getpid))

        with pytest.raises(ValueError, match="cannot be read as a study"):
            tracker.call(load_study, runs_dir / "none")

    _, trials = runs_of(runs_dir, "s")
    assert is_complete
    assert where[0] == where[1] != os.getpid()
    assert trials[0].info.status == "FINISHED"
    assert trials[0].data.metrics["val_accuracy"] == 0.6


def test_a_killed_process_is_replaced_and_the_view_is_completed(
    runs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial(curve=[0.2], outcome=None)], status="running")
    with caplog.at_level(logging.WARNING), following(directory) as tracker:
        wait_for_runs(runs_dir, 2)
        first = tracker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        add_trials(directory, [FakeTrial(curve=[0.9])])
        record_epochs(directory, 0, [0.5], first_epoch=2)
        end_trial(directory, 0, outcome="complete", value=0.5)

        is_complete = tracker.finish(timeout=NEVER)
        second = tracker.pid

    _, trials = runs_of(runs_dir, "s")
    assert is_complete
    assert second not in (None, first)
    assert [trials[number].data.metrics["best_val_accuracy"] for number in (0, 1)] == [0.5, 0.9]
    assert "(signal 9), another one goes on" in caplog.text


def test_a_process_that_is_killed_after_its_work_is_not_missed(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()])
    with following(directory) as tracker:
        tracker.finish(timeout=NEVER)
        assert tracker.pid is not None
        os.kill(tracker.pid, signal.SIGKILL)

        where = tracker.call(os.getpid)

    assert where == os.getpid()


def test_the_process_ends_with_the_search_that_is_killed(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()], status="running")
    program = (
        "import sys, time; from pathlib import Path; from analysis.tracking import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1]), poll_seconds=0.05); tracker.start()\n"
        "while tracker.pid is None: time.sleep(0.01)\n"
        "print(tracker.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as search:
        assert search.stdout is not None
        writing = psutil.Process(int(search.stdout.readline()))
        search.kill()

        gone, _ = psutil.wait_procs([writing], timeout=NEVER)
    sync(directory)

    assert gone == [writing]
    assert len(runs_of(runs_dir, "s")[1]) == 1


def test_a_sync_beside_a_running_search_leaves_it_the_view(runs_dir: Path) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial()])

    with only_writer(directory), pytest.raises(ValueError, match="running search"):
        sync(directory)


def test_a_dead_server_costs_two_warnings_and_no_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, warned: threading.Event
) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial()], status="running")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with caplog.at_level(logging.WARNING), following(directory, uri) as tracker:
        warned.wait()

        is_complete = tracker.finish(timeout=NEVER)

    assert not is_complete
    assert "nobody answers there" in caplog.text
    assert "not done after" not in caplog.text  # it had ended, nobody waited for it
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "the search goes on" in messages[0]
    assert f"python -m analysis sync {directory}" in messages[1]


def test_a_server_that_accepts_and_says_nothing_does_not_hold_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial()])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with following(directory, f"http://127.0.0.1:{silent.getsockname()[1]}") as tracker:
            knock, request = silent.accept(), silent.accept()  # ours, then MLflow's

            is_complete = tracker.finish(timeout=0.01)

            # The process waits for the server, and neither `finish` nor a call waits for the process.
            monkeypatch.setattr("analysis.tracking.tracker.ABANDONED_SECONDS", 0.01)
            with pytest.raises(ValueError, match="still writes"):
                tracker.call(os.getpid)
        for connection, _ in (knock, request):
            connection.close()

    assert not is_complete


def test_a_view_that_failed_is_written_later(
    runs_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_study(runs_dir / "s", [FakeTrial(), FakeTrial()])
    writer = ViewWriter(directory, poll_seconds=0.05)
    calls = []

    def fail_twice(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        if len(calls) <= 2:
            raise OSError("disk I/O error")
        writer.finishing.set()
        return log_batch(*arguments, **keywords)

    log_batch = mlflow.MlflowClient.log_batch
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail_twice)
    with caplog.at_level(logging.WARNING):
        failure = writer.follow()

    assert failure is None
    assert len(runs_of(runs_dir, "s")[1]) == 2
    assert "MLflow is written again" in caplog.text


def test_a_copied_study_is_written_beside_itself(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "runs" / "s", [], tracking_uri="sqlite:////gone/away/mlflow.db")

    uri = find_tracking_uri(load_study(directory))

    assert uri == f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
