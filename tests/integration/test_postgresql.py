"""A study in a real PostgreSQL: the same search, and a server that goes away for a while."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.simulated.postgresql import Server, find_binaries, running_server
from cluster.jobs.fetch import copy_database
from cluster.search.search import DONE
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from cluster.study.final_records import FinalRecord
from cluster.study.probe_records import ProbeRecord
from cluster.study.records import Records, TakenOver
from contract.finals import FinalTraining
from contract.messages import State
from contract.study_layout import StudyPaths
from tests.driven_search import (
    EPOCHS,
    accuracy,
    make_search,
    report,
    run_all,
    run_lease,
    take,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'psycopg[binary]')")
    with running_server() as made:
        yield made


def open_records(server: Server, name: str, *, new: bool) -> Records:
    return Records(server.url, study=name, directions=["maximize"], metric="val_accuracy", new=new)


@pytest.fixture
def records(server: Server) -> Iterator[Records]:
    opened = open_records(server, f"study-{time.monotonic_ns()}", new=True)
    yield opened
    opened.close()


def test_a_table_of_an_earlier_version_gets_the_newest_column(server: Server, records: Records) -> None:
    search = make_search(records)
    search.receive([report(take(search), 1)])
    with records._engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE epochs DROP COLUMN predicted"))

    open_records(server, "another", new=True).close()
    search = make_search(records)
    search.receive([replace(report(take(search), 2), predicted=b"\x01\x00\xff")])

    assert [row.predicted for row in records.load()[0].epochs.values()] == [None, b"\x01\x00\xff"]


def test_a_search_in_postgresql_equals_one_in_sqlite(records: Records, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    local = Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=True)
    for one in (records, local):
        search = make_search(one)
        run_lease(search, take(search))
        search.receive([report(take(search), 1)])
        run_all(make_search(one))  # killed, and taken up again

    there, here = records.load(), local.load()

    assert len(there) == 12
    for remote, near in zip(there, here, strict=True):
        assert (remote.number, remote.state, remote.params, remote.values) == (
            near.number,
            near.state,
            near.params,
            near.values,
        )
        assert {e: row.metrics for e, row in remote.epochs.items()} == {
            e: row.metrics for e, row in near.epochs.items()
        }
    local.close()


def test_probes_in_postgresql_are_read_back_as_they_were_written(records: Records) -> None:
    measured = ProbeRecord(
        probe=1,
        config={"backbone": "lite0", "head_width": "512-128"},
        metrics={"val_accuracy": 0.875},
        seconds=0.2,
        error=None,
        worker="localhost:7",
        arrival=1_760_000_000.25,
    )
    failed = replace(measured, probe=0, metrics=None, error="Diverged: the loss is nan", worker=None)

    records.record_probes([measured, failed])
    records.record_probes([measured])

    assert records.load_probes() == [failed, measured]


def test_finals_and_readings_in_postgresql_are_read_back_as_they_were_written(records: Records) -> None:
    training = FinalTraining.fold_of(7, 1, 5, epochs=3, val_losses=(0.5, 0.25))
    waiting = FinalRecord(final=0, training=training, config={"backbone": "lite0"})
    ended = replace(
        waiting,
        final=1,
        training=FinalTraining.seed(7, 2),
        state=State.COMPLETE,
        metrics={"val_accuracy": 0.875},
        epochs=3,
        seconds=0.25,
        worker="localhost:7",
        arrival=1_760_000_000.25,
    )

    records.record_finals([ended, waiting])
    records.record_finals([ended])
    first = records.add_reading(
        digest="a", rule="single", images=9, record={"accuracy": 0.5}, created=1_760_000_000.25
    )
    records.add_reading(digest="b", rule="ensemble", images=9, record={}, created=1_760_000_001.0)

    assert records.load_finals() == [waiting, ended]
    again = records.add_reading(digest="a", rule="single", images=9, record={}, created=1_760_000_002.0)
    assert again == first
    assert [(one.reading, one.digest) for one in records.load_readings()] == [(1, "a"), (2, "b")]


def test_a_driver_that_was_taken_over_writes_nothing_more(server: Server) -> None:
    name = f"study-{time.monotonic_ns()}"
    first = open_records(server, name, new=True)
    first.take_over("first")
    search = make_search(first)
    run_lease(search, take(search))
    lease = take(search)
    second = open_records(server, name, new=False)
    before = second.load()

    second.take_over("second")

    with pytest.raises(TakenOver):
        search.receive([report(lease, 1)])
    assert second.load() == before
    run_all(make_search(second))
    first.close()
    second.close()


def test_a_study_is_copied_into_a_file_and_its_password_is_nowhere(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("tester@", "tester:hunter2@")
    config = StudyConfig(space="toy", study="copied", runs_dir=tmp_path, storage=url, trials=3)
    study = open_study(config, facts={"image_size": 32, "max_epochs": EPOCHS})
    run_all(make_search(study.records))
    kept = study.records.load()
    study.close()

    (tmp_path / "copy").mkdir()
    copy_database(StudyPaths(study.directory), StudyPaths(tmp_path / "copy"))

    copied = Records(
        f"sqlite:///{tmp_path}/copy/study.db", study="copied", directions=["maximize"], metric="x", new=False
    )
    assert copied.load() == kept
    copied.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(b"hunter2" in path.read_bytes() for path in written)


def test_a_server_that_is_gone_for_a_while_is_waited_for_and_nothing_is_lost(
    server: Server, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    search = make_search(records, num_trials=2)
    lease = take(search)
    search.receive([report(lease, 1)])
    server.stop()
    decided: list[str] = []
    thread = threading.Thread(
        target=lambda: decided.extend(d.action for d in search.receive([report(lease, 2)]))
    )
    thread.start()
    while thread.is_alive() and "nothing is lost" not in caplog.text:
        time.sleep(0.05)
    waiting = thread.is_alive()
    server.start()
    thread.join(timeout=60)

    run_all_from(search, lease)

    assert waiting
    assert decided == ["continue"]
    assert "nothing is lost" in caplog.text
    loaded = records.load()
    assert [len(record.epochs) for record in loaded] == [EPOCHS, len(loaded[1].epochs)]
    assert loaded[0].epochs[2].metrics["val_accuracy"] == accuracy(loaded[0].attrs["config"], 2)


def run_all_from(search, lease) -> None:  # type: ignore[no-untyped-def]
    run_lease(search, lease, first_epoch=3)
    while (following := search.next_lease()) is not DONE:
        run_lease(search, following)
