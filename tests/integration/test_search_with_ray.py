"""A whole search on a real Ray: its end, its accidents, and being killed and taken up again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.ray_tune.session import Session
from contract.study_layout import RunOutcome
from tests.integration.toy_driver import make_config, run_toy_study
from tests.integration.toy_trainable import toy_accuracy

REPOSITORY = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("toy_driver.py")


def query(runs_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{runs_dir}/toy/study.db?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


def states(runs_dir: Path) -> Counter[str]:
    return Counter(state for (state,) in query(runs_dir, "SELECT state FROM trials"))


def attributes(runs_dir: Path, key: str) -> dict[int, Any]:
    sql = f"SELECT number, value_json FROM trial_user_attributes NATURAL JOIN trials WHERE key = '{key}'"
    return {number: json.loads(value) for number, value in query(runs_dir, sql)}


def epochs_of(runs_dir: Path, trial: int) -> list[int]:
    sql = f"SELECT epoch FROM epochs WHERE trial = {trial} ORDER BY epoch"
    return [epoch for (epoch,) in query(runs_dir, sql)]


def start_driver(runs_dir: Path, **settings: Any) -> subprocess.Popen[str]:
    """A driver with a process group of its own, as a shell gives it: Ctrl-C goes to all of the group."""
    command = [sys.executable, str(DRIVER), "--runs-dir", str(runs_dir), "--settings", json.dumps(settings)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "UNFREEZE_CACHE": str(runs_dir / "cache")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, process_group=0
    )


def wait_for(table: str, num: int, *, runs_dir: Path, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and driver.poll() is None:
        try:
            if query(runs_dir, f"SELECT count(*) FROM {table}")[0][0] >= num:
                return
        except sqlite3.OperationalError:
            pass  # not there yet
        time.sleep(0.05)
    raise AssertionError(f"no {num} {table}: {driver.communicate()[0]}")


def test_a_whole_search_ends_finished_and_leaves_no_files_of_tune(
    ray_session: Session, tmp_path: Path
) -> None:
    ending, search = run_toy_study(make_config(tmp_path, trials=8), settings={})

    assert ray_session.cpus == 2
    assert ending.how is RunOutcome.FINISHED
    assert search.counts()["running"] == 0
    assert states(tmp_path).total() == 8
    assert not (tmp_path / "toy" / ".ray").exists()
    for number, config in attributes(tmp_path, "config").items():
        last = epochs_of(tmp_path, number)[-1]
        value = query(tmp_path, f"SELECT value FROM trial_values WHERE trial_id = {number + 1}")[0][0]
        assert value == pytest.approx(toy_accuracy(config["learning_rate"], last))
    assert set(attributes(tmp_path, "worker")) == set(range(8))


@pytest.mark.usefixtures("ray_session")
def test_a_killed_worker_is_replaced_and_its_trial_tried_again(tmp_path: Path) -> None:
    ending, _ = run_toy_study(make_config(tmp_path, trials=3), settings={"dies": 1})

    assert ending.how is RunOutcome.FINISHED
    assert attributes(tmp_path, "attempts") == {0: 1, 1: 2, 2: 1}
    assert states(tmp_path)["FAIL"] == 0


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("scheduler", ["asha", "none"])
def test_trials_that_share_leases_end_as_any_others_and_a_killed_worker_costs_none_of_them(
    tmp_path: Path, scheduler: str
) -> None:
    config = make_config(tmp_path, trials=32, scheduler=scheduler)

    ending, search = run_toy_study(config, settings={"dies": 5}, group_of=lambda _: "heads")

    counts = search.counts()
    assert ending.how is RunOutcome.FINISHED
    assert counts["complete"] + counts["pruned"] == 32
    assert counts["complete"] == (32 if scheduler == "none" else counts["complete"]) > 0
    leases = Counter(attributes(tmp_path, "lease").values())
    assert max(leases.values()) > 1
    assert attributes(tmp_path, "attempts")[5] >= 2
    for number, trial in search.trials.items():
        assert epochs_of(tmp_path, number) == list(range(1, trial.num_epochs + 1))


@pytest.mark.usefixtures("ray_session")
def test_probes_run_before_the_first_trial_and_one_that_kills_its_worker_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, trials=3, probes=6)

    ending, search = run_toy_study(config, settings={"probe_dies": 2}, group_of=lambda _: "heads")

    first_epoch = query(tmp_path, "SELECT MIN(arrival) FROM epochs")[0][0]
    probes = query(tmp_path, "SELECT probe, error, worker, arrival FROM probes ORDER BY probe")
    assert ending.how is RunOutcome.FINISHED
    assert [probe for probe, *_ in probes] == list(range(6))
    assert [probe for probe, error, *_ in probes if error] == [2]
    assert all(arrival < first_epoch for *_, arrival in probes)
    assert all(worker for _, error, worker, _ in probes if not error)
    assert attributes(tmp_path, "attempts") == {0: 1, 1: 1, 2: 1}
    assert len(search.probes.taught()) == 5
    assert "probes 6 of 6 judged on frozen features" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_session")
def test_an_exception_in_the_trainable_fails_its_trial_only(tmp_path: Path) -> None:
    ending, _ = run_toy_study(make_config(tmp_path, trials=3), settings={"raises": 1})

    assert ending.how is RunOutcome.FINISHED
    assert states(tmp_path)["FAIL"] == 1
    assert attributes(tmp_path, "reason") == {1: "bug"}
    assert "no such layer" in attributes(tmp_path, "traceback")[1]


@pytest.mark.usefixtures("ray_session")
def test_a_time_budget_ends_the_run_and_the_next_run_goes_on(tmp_path: Path) -> None:
    config = make_config(tmp_path, trials=4, scheduler="none", max_epochs=9)
    first, _ = run_toy_study(config, settings={"seconds": 0.1}, time_budget=0.5)
    unfinished = states(tmp_path)["RUNNING"]

    second, _ = run_toy_study(config, settings={})

    assert first.how is RunOutcome.TIME_BUDGET
    assert unfinished > 0
    assert second.how is RunOutcome.FINISHED
    assert states(tmp_path) == {"COMPLETE": 4}
    assert all(epochs_of(tmp_path, number) == list(range(1, 10)) for number in range(4))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ctrl_c_ends_the_running_epochs_and_the_same_search_continues(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, seconds=0.3)
    wait_for("epochs", 3, runs_dir=tmp_path, driver=driver)
    os.killpg(driver.pid, signal.SIGINT)
    output = driver.communicate(timeout=60)[0]
    interrupted = json.loads(output.strip().rpartition("\n")[2])
    attempts_before = attributes(tmp_path, "attempts")

    again, _ = run_toy_study(make_config(tmp_path, trials=8, concurrent=2, scheduler="asha"), settings={})

    assert interrupted["how"] == "interrupted"
    assert "stopping after the running epochs" in output
    assert "Traceback" not in output
    assert interrupted["counts"]["failed"] == 0
    assert again.how is RunOutcome.FINISHED
    assert set(attempts_before.values()) == {1}
    assert states(tmp_path)["FAIL"] == 0


@pytest.mark.slow
def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    # Whoever waits for an epoch waits longer than the test may.
    driver = start_driver(tmp_path, seconds=3600, started=str(started))
    while len(list(started.iterdir())) < 2:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert driver.stdout is not None
    while "stopping after the running epochs" not in (line := driver.stdout.readline()):
        assert line, "the driver ended at the first Ctrl-C"
    driver.send_signal(signal.SIGINT)

    output = driver.communicate(timeout=200)[0]

    assert json.loads(output.strip().rpartition("\n")[2])["how"] == "interrupted"


def test_a_full_disk_stops_the_study_with_one_line_and_the_next_run_continues_it(
    ray_session: Session, tmp_path: Path
) -> None:
    config = make_config(tmp_path, trials=6)

    ending, search = run_toy_study(config, settings={"fills_disk": 2})
    unfinished = search.counts()["running"]
    again, search = run_toy_study(config, settings={})

    assert (ending.how, again.how) == ("failed", "finished")
    assert ending.reason == (
        "no space is left on the study's disk: free some, and run the same command to continue"
    )
    assert unfinished > 0
    assert search.counts()["failed"] == 0
    assert sorted(attributes(tmp_path, "outcome")) == list(range(6))


def test_a_database_that_never_answers_again_ends_the_search_with_one_line(
    ray_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.study.records.PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("cluster.study.database.LOCKED_SECONDS", 0.1)
    over = threading.Event()
    thread = threading.Thread(target=lock_after_three_epochs, args=(tmp_path, over))
    thread.start()

    ending, _ = run_toy_study(make_config(tmp_path, trials=40), settings={"seconds": 0.2})
    over.set()
    thread.join()

    assert ending.how is RunOutcome.FAILED
    assert ending.reason is not None
    assert ending.reason.startswith("the study database has not answered for 0 minutes (database is locked)")
    assert "\n" not in ending.reason


def lock_after_three_epochs(runs_dir: Path, over: threading.Event) -> None:
    while not (runs_dir / "toy" / "study.db").exists() or num_epochs(runs_dir) < 3:
        time.sleep(0.05)
    with sqlite3.connect(runs_dir / "toy" / "study.db", isolation_level=None, timeout=30) as other:
        other.execute("BEGIN EXCLUSIVE")
        over.wait(60)


def num_epochs(runs_dir: Path) -> int:
    try:
        return int(query(runs_dir, "SELECT count(*) FROM epochs")[0][0])
    except sqlite3.OperationalError:
        return 0  # not there yet
