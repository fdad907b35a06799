"""The whole path to a cluster: up, submit, a node lost, a node added, fetch, leaderboard, down."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.rehearsal.record import ClusterRecord, NodeProcess, find_processes, read_record
from tests.tiny_data import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


class Rehearsal:
    """A cluster of this test's own, addressed by its state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # As for a new user: no token of his own, nothing in the environment.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment |= {"XDG_STATE_HOME": str(folder), "HOME": str(folder / "home")}

    @property
    def record(self) -> ClusterRecord:
        record = read_record(self.folder / "unfreeze")
        assert record is not None
        return record

    def run(self, *words: str, code: int = 0, module: str = "cluster") -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *flags: str) -> subprocess.Popen[str]:
        """Submitted and followed, while the test goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", "submit", "--", *flags],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def flags(self, study: str, *more: str) -> tuple[str, ...]:
        places = ("--runs-dir", str(self.folder / "runs"), "--cache-dir", str(self.folder / "cache"))
        data = ("--data", str(self.folder / "images"), "--image-size", "32")
        return ("--space", "demo", "--study", study, *places, *data, *more)

    def query(self, study: str, sql: str) -> list[Any]:
        path = self.folder / "runs" / study / "study.db"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
                return [row[0] for row in database.execute(sql)]
        except sqlite3.OperationalError:
            return []  # not there yet

    def wait_for_work_on(self, node: NodeProcess, study: str, job: subprocess.Popen[str]) -> None:
        """Until a process of that node has reported an epoch of the study."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and job.poll() is None:
            processes = {process.pid for process in find_processes(node)}
            workers = self.query(study, attribute("worker"))
            if processes & {int(json.loads(worker).rpartition(":")[2]) for worker in workers}:
                return
            time.sleep(0.3)
        raise AssertionError(f"no report from node {node.number}")


def attribute(key: str) -> str:
    return f"SELECT value_json FROM trial_user_attributes WHERE key = '{key}'"


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    made = Rehearsal(tmp_path_factory.mktemp("rehearsal"))
    write_images(made.folder / "images")
    made.run("up", "--nodes", "3", "--cpus-per-node", "1")
    yield made
    made.run("down")


def listening(record: ClusterRecord) -> set[str]:
    """Addresses at which the processes of a cluster listen."""
    found = set()
    for node in record.nodes:
        for process in find_processes(node):
            try:
                connections = process.net_connections(kind="tcp")
            except psutil.NoSuchProcess:
                continue
            found |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return found


def test_the_cluster_listens_on_loopback_only_and_wants_its_token(rehearsal: Rehearsal) -> None:
    wrong = rehearsal.folder / "wrong"
    wrong.write_text("0" * 64)

    said = rehearsal.run("jobs", "--token-file", str(wrong), code=1)

    assert listening(rehearsal.record) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert said.count("\n") == 1
    assert "the token is not this cluster's" in said
    assert rehearsal.record.token_file.stat().st_mode & 0o077 == 0


def test_a_search_survives_a_lost_node_uses_a_new_one_is_stopped_continued_and_comes_home(
    rehearsal: Rehearsal,
) -> None:
    flags = rehearsal.flags("mine", "--max-epochs", "20", "--scheduler", "none")
    while len(rehearsal.record.nodes) < 3:  # the test of a lost head leaves two
        rehearsal.run("add-node")
    with rehearsal.submit(*flags, "--trials", "500") as job:
        rehearsal.wait_for_work_on(rehearsal.record.nodes[2], "mine", job)
        rehearsal.run("kill-node", "2")
        rehearsal.run("add-node")
        rehearsal.wait_for_work_on(rehearsal.record.nodes[3], "mine", job)
        listed = rehearsal.run("jobs").split()
        rehearsal.run("stop", listed[0])
        log = job.communicate(timeout=300)[0]
    assert job.returncode == 130, log
    assert "submit the same again to continue" in log
    # The count of a trial's crashes would not do: its next progress sets it to 0 again.
    assert [attempts for attempts in rehearsal.query("mine", attribute("attempts")) if int(attempts) > 1], log
    num_trials = len(rehearsal.query("mine", "SELECT number FROM trials"))

    log = rehearsal.run("submit", "--", *flags, "--trials", str(num_trials))
    job_id = log.partition("submitted ")[2].split()[0]
    rehearsal.run("fetch", "mine", "--from", job_id, "--to", str(rehearsal.folder / "home"))
    copy = rehearsal.folder / "home" / "mine"
    rows = json.loads(rehearsal.run("leaderboard", str(copy), "--json", module="analysis"))

    assert sorted(row["trial"] for row in rows) == list(range(num_trials))
    assert {row["state"] for row in rows} == {"complete"}
    assert all(row["epochs"] == 20 for row in rows)
    assert not rehearsal.query("mine", "SELECT 1 FROM trials WHERE state = 'FAIL'")
    token = rehearsal.record.token_file.read_bytes()
    written = [path for folder in ("runs", "home") for path in (rehearsal.folder / folder).rglob("*")]
    assert not any(token in path.read_bytes() for path in written if path.is_file())
    assert token.decode() not in log


def test_what_the_nodes_do_not_see_ends_the_job_with_one_line_and_code_2(rehearsal: Rehearsal) -> None:
    missing = rehearsal.folder / "not" / "there"
    flags = rehearsal.flags("blind", "--data", str(missing))

    log = rehearsal.run("submit", "--", *flags, code=2)

    assert log.strip().splitlines()[-1].startswith(f"tune.py: no such folder or file: {missing}")
    assert "Traceback" not in log


def test_a_search_whose_head_is_lost_goes_on_with_up_and_the_same_line(rehearsal: Rehearsal) -> None:
    flags = rehearsal.flags("headless", "--max-epochs", "20", "--scheduler", "none", "--trials", "24")
    with rehearsal.submit(*flags) as job:
        rehearsal.wait_for_work_on(rehearsal.record.nodes[1], "headless", job)
        rehearsal.run("kill-node", "0")
        log = job.communicate(timeout=120)[0]
    assert job.returncode == 1, log
    assert log.strip().splitlines()[-1].endswith("submit the same again to continue")
    ended = rehearsal.query("headless", "SELECT number FROM trials WHERE state = 'COMPLETE'")
    before = rehearsal.query("headless", "SELECT trial || ':' || epoch || ':' || metrics FROM epochs")

    rehearsal.run("up", "--nodes", "2", "--cpus-per-node", "1")
    rehearsal.run("submit", "--", *flags)

    assert rehearsal.query("headless", "SELECT state FROM trials") == ["COMPLETE"] * 24
    rows = rehearsal.query("headless", "SELECT trial || ':' || epoch FROM epochs")
    assert sorted(rows) == sorted(f"{trial}:{epoch}" for trial in range(24) for epoch in range(1, 21))
    attempts = dict(enumerate(rehearsal.query("headless", attribute("attempts") + " ORDER BY trial_id")))
    assert {attempts[number] for number in ended} <= {"1"}
    assert set(attempts.values()) > {"1"}
    kept = rehearsal.query("headless", "SELECT trial || ':' || epoch || ':' || metrics FROM epochs")
    finished = tuple(f"{number}:" for number in ended)
    assert {row for row in before if row.startswith(finished)} <= set(kept)
