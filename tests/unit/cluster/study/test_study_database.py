"""Records of a study: transactions are whole, read back equal, and wait for a database that is away."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.study.records import Ending, EpochRecord, NewTrial, Records
from contract.messages import EpochDecision


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = open_records(tmp_path)
    yield made
    made.close()


def open_records(folder: Path) -> Records:
    url = f"sqlite:///{folder}/study.db"
    return Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=False)


def frozen(number: int) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"depth": "all", "rate": 0.01},
        distributions={
            "depth": CategoricalDistribution((0, 1, "all")),
            "rate": FloatDistribution(1e-5, 1e-1, log=True),
        },
        system_attrs={"tpe:relative_params:0": "{}"},
    )
    trial.number = number
    return trial


def epoch(trial: int, number: int, **changes: object) -> EpochRecord:
    values: dict[str, object] = {"attempt": 1, "metrics": {"val_accuracy": 0.5}, "arrival": 1.0}
    return EpochRecord(trial=trial, epoch=number, **(values | {"decision": EpochDecision.CONTINUE} | changes))  # type: ignore[arg-type]


def test_what_is_written_comes_back(records: Records, tmp_path: Path) -> None:
    attrs = {"config": {"depth": "all", "names": ["ä", "b"]}, "attempts": 1}
    records.record(new=[NewTrial(trial=frozen(0), attrs=attrs)])
    records.record(
        [epoch(0, 1), epoch(0, 2, metrics={"val_accuracy": float("nan")})], attrs={0: {"worker": "w"}}
    )
    ending = Ending(trial=0, state=TrialState.COMPLETE, values=(0.5,), attrs={"outcome": "complete"})
    records.record([epoch(0, 3, decision=EpochDecision.COMPLETE, predicted=b"\x01\x00\xff")], [ending])

    trial = open_records(tmp_path).load()[0]

    assert trial.params == {"depth": "all", "rate": 0.01}
    assert trial.attrs == attrs | {"worker": "w", "outcome": "complete"}
    assert trial.system_attrs == {"tpe:relative_params:0": "{}"}
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.5])
    assert [trial.epochs[n].decision for n in (1, 2, 3)] == ["continue", "continue", "complete"]
    assert [trial.epochs[n].predicted for n in (1, 2, 3)] == [None, None, b"\x01\x00\xff"]


def test_a_database_without_the_newest_column_gets_it_and_keeps_its_rows(tmp_path: Path) -> None:
    earlier = open_records(tmp_path)
    earlier.record(new=[NewTrial(trial=frozen(0), attrs={})])
    earlier.record([epoch(0, 1)])
    earlier.close()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("ALTER TABLE epochs DROP COLUMN predicted")

    opened = open_records(tmp_path)
    opened.record([epoch(0, 2, predicted=b"classes")])

    assert [row.predicted for row in opened.load()[0].epochs.values()] == [None, b"classes"]
    opened.close()
    open_records(tmp_path).close()


def test_a_study_of_an_earlier_version_is_opened_for_writing(tmp_path: Path) -> None:
    made_then = Path(__file__).parents[3] / "data" / "study_086efa2"
    shutil.copy(made_then / "study.db", tmp_path)
    url = f"sqlite:///{tmp_path}/study.db"

    opened = Records(url, study="old086", directions=["maximize"], metric="val_accuracy", new=False)
    trials = opened.load()
    opened.close()

    assert len(trials) == 4
    assert {row.predicted for trial in trials for row in trial.epochs.values()} == {None}


def test_optuna_reads_the_study_as_its_own(records: Records, tmp_path: Path) -> None:
    records.record(new=[NewTrial(trial=frozen(0), attrs={})])
    ending = Ending(trial=0, state=TrialState.COMPLETE, values=(0.75,), attrs={})
    records.record([epoch(0, 1), epoch(0, 2, metrics={"val_accuracy": float("nan")})], [ending])

    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")

    assert study.best_params == {"depth": "all", "rate": 0.01}
    assert study.best_value == 0.75
    assert study.trials[0].intermediate_values[1] == 0.5
    assert study.trials[0].duration is not None


def test_a_replayed_epoch_overwrites_its_row(records: Records) -> None:
    records.record(new=[NewTrial(trial=frozen(0), attrs={})])
    records.record([epoch(0, 1)])

    records.record([epoch(0, 1, attempt=2, metrics={"val_accuracy": 0.6})])

    rows = records.load()[0].epochs
    assert [(row.attempt, row.metrics) for row in rows.values()] == [(2, {"val_accuracy": 0.6})]


def test_a_report_is_written_whole_or_not_at_all(records: Records) -> None:
    records.record(new=[NewTrial(trial=frozen(0), attrs={})])

    with pytest.raises(AssertionError, match="trial 7 was never added"):
        records.record([epoch(0, 1), epoch(7, 1)])

    assert records.load()[0].epochs == {}


def test_a_trial_added_twice_is_there_once(records: Records) -> None:
    records.record(new=[NewTrial(trial=frozen(0), attrs={"attempts": 1})])
    records.record(new=[NewTrial(trial=frozen(0), attrs={"attempts": 1})])

    assert len(records.load()) == 1


def test_a_database_that_cannot_be_written_for_a_while_is_waited_for(
    records: Records, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records.record(new=[NewTrial(trial=frozen(0), attrs={})])
    (tmp_path / "study.db").chmod(0o644)
    broken, given_up = threading.Event(), threading.Event()

    def hold_the_table_away() -> None:
        with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as connection:
            connection.execute("ALTER TABLE epochs RENAME TO gone")
            broken.set()
            while "waiting, nothing is lost" not in caplog.text and not given_up.is_set():
                time.sleep(0.05)
            connection.execute("ALTER TABLE gone RENAME TO epochs")

    thread = threading.Thread(target=hold_the_table_away)
    thread.start()
    broken.wait()
    try:
        with caplog.at_level(logging.DEBUG, logger="unfreeze"):
            records.record([epoch(0, 1)])
    finally:  # the thread reads this test's log: it must not outlive it
        given_up.set()
        thread.join()

    assert 1 in records.load()[0].epochs
    assert "waiting, nothing is lost" in caplog.text


def test_a_database_that_another_process_has_locked_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.study.database.LOCKED_SECONDS", 0.1)
    records = open_records(tmp_path)
    records.record(new=[NewTrial(trial=frozen(0), attrs={})])
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.readline(); c.execute('COMMIT')"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "study.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"

        with caplog.at_level(logging.DEBUG, logger="unfreeze"):
            writer = threading.Thread(target=records.record, args=([epoch(0, 1)],))
            writer.start()
            deadline = time.monotonic() + 200
            while "waiting, nothing is lost" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)
            still_waiting = writer.is_alive()
            other.communicate("\n")
            writer.join(30)

    assert still_waiting
    assert "waiting, nothing is lost" in caplog.text
    assert 1 in records.load()[0].epochs
    records.close()


def test_sqlite_is_set_for_small_safe_writes(records: Records) -> None:
    with records._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


@pytest.mark.parametrize("url", ["study.db", "foo://host/db", "sqlite:////nowhere/at/all/study.db"])
def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.study.records.OPENING_SECONDS", 0.1)

    with pytest.raises(ValueError, match=r"--storage must be|cannot be opened") as error:
        Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=True)

    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_ten_thousand_trials_load_in_a_handful_of_queries(records: Records) -> None:
    with records._engine.begin() as connection:
        metrics, numbers = '{"val_accuracy": 0.5}', range(10_000)
        epochs = [(n, e, 1, 1, metrics, 0.0, "continue") for n in numbers for e in range(1, 31)]
        for table, columns, rows in (
            ("trials", "trial_id, number, study_id, state", [(n + 1, n, 1, "COMPLETE") for n in numbers]),
            ("epochs", "trial, epoch, study_id, attempt, metrics, arrival, decision", epochs),
        ):
            marks = ",".join("?" * len(rows[0]))
            connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
    statements: list[str] = []
    listen = sa.event.listen
    listen(records._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    loaded = records.load()

    assert len(loaded) == 10_000
    assert len(loaded[0].epochs) == 30
    assert len(statements) < 10
