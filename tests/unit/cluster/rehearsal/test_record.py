"""The record of `up` is read back as it was, and only the recorded processes are ever ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.__main__ import main
from cluster.rehearsal.local_cluster import kill_node, stop_cluster
from cluster.rehearsal.record import (
    ClusterRecord,
    NodeProcess,
    find_process,
    find_processes,
    read_record,
    write_record,
)

TREE = "import subprocess, time; subprocess.Popen(['sleep', '300']); print('up', flush=True); time.sleep(300)"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TREE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def record_of(folder: Path, pid: int, *, started: float | None = None) -> ClusterRecord:
    started = psutil.Process(pid).create_time() if started is None else started
    nodes = (NodeProcess(number=0, pid=pid, started=started, cpus=2),)
    (folder / "ray").mkdir()
    return ClusterRecord(
        host="127.0.0.1",
        gcs_port=1,
        dashboard_port=2,
        temp_dir=str(folder / "ray"),
        state_dir=str(folder),
        nodes=nodes,
    )


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path, tree: subprocess.Popen[str]) -> None:
    record = record_of(tmp_path, tree.pid)
    write_record(record)

    assert read_record(tmp_path) == record
    assert read_record(tmp_path / "elsewhere") is None
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(ValueError, match="delete it"):
        read_record(tmp_path)


def test_a_killed_node_loses_all_its_processes(tmp_path: Path, tree: subprocess.Popen[str]) -> None:
    record = record_of(tmp_path, tree.pid)
    processes = find_processes(record.nodes[0])

    kill_node(record, 0)

    assert len(processes) == 2
    assert tree.wait(10) == -9
    psutil.wait_procs(processes, timeout=120)
    assert not any(process.is_running() for process in processes)
    with pytest.raises(ValueError, match="no node 0 is running; there are: none"):
        kill_node(record, 0)


def test_a_process_that_got_the_number_of_an_ended_node_is_left_alone(
    tmp_path: Path, tree: subprocess.Popen[str]
) -> None:
    record = record_of(tmp_path, tree.pid, started=psutil.Process(tree.pid).create_time() + 500)

    stop_cluster(record)

    assert find_process(record.nodes[0]) is None
    assert tree.poll() is None
    assert not Path(record.temp_dir).exists()


def test_commands_without_a_cluster_say_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: no cluster is up: python -m cluster up\n"
    assert main(["down", "--state-dir", str(tmp_path)]) == 0
    flags = ["--space", "demo", "--runs-dir", "elsewhere"]
    assert main(["submit", "--state-dir", str(tmp_path), "--", *flags]) == 2
    assert "--runs-dir elsewhere is relative" in capsys.readouterr().err
