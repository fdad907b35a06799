"""SQLite on network file systems, which tests simulate with a mount table."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import analysis.tracking.server
import cluster.study.database
from analysis.reading import load_study, load_trial_rows
from analysis.tracking.server import choose_journal
from cluster.study.records import Records
from contract.sqlite_files import has_write_ahead_log, network_file_system, remove_write_ahead_log
from tests.study_factory import FakeTrial, make_study

Mount = Callable[[Path, str], None]


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    """Adds a line to the mount table, which begins with a local root."""
    table = [SimpleNamespace(mountpoint="/", fstype="ext4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: list(table))
    for module in (cluster.study.database, analysis.tracking.server):
        module._recommend_server.cache_clear()
    yield lambda place, kind: table.append(SimpleNamespace(mountpoint=str(place), fstype=kind))


def open_records(folder: Path) -> Records:
    url = f"sqlite:///{folder}/study.db"
    return Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=False)


def journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs", "fuse.s3fs", "beegfs", "ceph"])
def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path, mount: Mount, kind: str) -> None:
    mount(tmp_path / "share", kind)
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")

    assert network_file_system(tmp_path / "share" / "runs" / "study.db") == kind
    assert network_file_system(tmp_path / "link" / "study.db") == kind
    assert network_file_system(tmp_path / "share-of-another-name" / "study.db") is None
    assert network_file_system(tmp_path / "study.db") is None


def test_the_innermost_and_last_mount_holds_a_path(tmp_path: Path, mount: Mount) -> None:
    mount(tmp_path / "disk", "xfs")
    mount(tmp_path, "nfs4")
    mount(tmp_path / "auto", "autofs")
    mount(tmp_path / "auto", "nfs")

    assert network_file_system(tmp_path / "disk" / "study.db") is None
    assert network_file_system(tmp_path / "auto" / "study.db") == "nfs"


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "fuse.fuse-overlayfs", "fuseblk"])
def test_disks_of_this_machine_are_no_network(tmp_path: Path, mount: Mount, kind: str) -> None:
    mount(tmp_path, kind)

    assert network_file_system(tmp_path / "study.db") is None


def test_a_study_on_a_share_has_no_write_ahead_log_and_says_what_is_better(
    tmp_path: Path, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    mount(tmp_path, "nfs4")

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            records = open_records(tmp_path)
            with records._engine.connect() as connection:
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
                synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
            records.close()

    assert (mode, synchronous) == ("delete", 2)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "nfs4" in line
    assert "--storage postgresql://" in line


def test_a_write_ahead_log_that_was_left_on_a_share_is_brought_in(tmp_path: Path, mount: Mount) -> None:
    open_records(tmp_path).close()
    path = tmp_path / "study.db"
    left = sqlite3.connect(path, isolation_level=None)
    left.execute("PRAGMA wal_autocheckpoint=0")
    left.execute("CREATE TABLE late (value)")
    files = {name: (tmp_path / name).read_bytes() for name in ("study.db", "study.db-wal")}
    left.close()  # which would tidy up; a killed process does not
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert has_write_ahead_log(path)
    mount(tmp_path, "nfs4")

    open_records(tmp_path).close()

    assert not has_write_ahead_log(path)
    assert not (tmp_path / "study.db-wal").exists()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM late").fetchone() == (0,)


def test_a_log_that_another_process_has_open_is_not_removed_in_silence(
    tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.study.records.OPENING_SECONDS", 0.0)
    monkeypatch.setattr("cluster.study.database.LOCKED_SECONDS", 0.1)
    first = open_records(tmp_path)
    mount(tmp_path, "nfs4")

    with first._engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM studies").scalar()
        with pytest.raises(ValueError, match=r"cannot be opened.*locked"):
            open_records(tmp_path)
    first.close()


def test_mlflow_on_a_share_has_no_write_ahead_log(
    tmp_path: Path, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    choose_journal(f"sqlite:///{path}")
    assert journal_mode(path) == "wal"
    mount(tmp_path, "lustre")

    with caplog.at_level(logging.WARNING):
        choose_journal(f"sqlite:///{path}")

    assert journal_mode(path) == "delete"
    assert "--tracking-uri http://" in caplog.text


def test_a_study_with_a_log_on_a_share_is_read_without_shared_memory(tmp_path: Path, mount: Mount) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial()])
    with closing(sqlite3.connect(directory / "study.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    mount(tmp_path, "nfs4")
    before = {path.name for path in directory.iterdir()}

    rows = load_trial_rows(load_study(directory))

    assert len(rows) == 1
    assert {path.name for path in directory.iterdir()} == before


def test_a_database_that_does_not_exist_has_no_log(tmp_path: Path) -> None:
    remove_write_ahead_log(tmp_path / "study.db", timeout_seconds=0.1)

    assert not (tmp_path / "study.db").exists()
