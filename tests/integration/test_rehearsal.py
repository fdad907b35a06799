"""The whole path to a cluster: up, submit, a node lost, a node added, the head lost, fetch, down.

Ray's own `ray job submit` is tried on the same cluster, which takes half a minute to start.
"""

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

from cluster.jobs.server import JobServer
from cluster.rehearsal.local_cluster import kill_node
from cluster.rehearsal.record import ClusterRecord, NodeProcess, find_processes, read_record
from tests.tiny_data import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


class Rehearsal:
    """A cluster of this test's own, addressed by its state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        # As for a new user: no token of his own, nothing in the environment.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "UNFREEZE_", "MLFLOW_"))}
        self.environment = kept | {"XDG_STATE_HOME": str(folder), "HOME": str(self.home)}

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

    def ray_job_submit(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """The plain line of the documentation, with the flags of a search and none of the cluster."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
        return subprocess.run(
            [*ray, "--", "python", "tune.py", "--space", "demo", *flags],
            cwd=ROOT,
            env=self.environment | self.record.environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    @property
    def images(self) -> tuple[str, ...]:
        return ("--data", str(self.folder / "images"), "--image-size", "32")

    def latest_job(self) -> Any:
        token = self.record.token_file.read_text()
        return JobServer(self.record.address, token=token).jobs()[0]

    def flags(self, study: str, *more: str) -> tuple[str, ...]:
        places = ("--runs-dir", str(self.folder / "runs"), "--cache-dir", str(self.folder / "cache"))
        return ("--space", "demo", "--study", study, *places, *self.images, *more)

    def query(self, study: str, sql: str) -> list[Any]:
        try:
            return rows(self.folder / "runs" / study, sql)
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


def rows(study: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{study / 'study.db'}?mode=ro", uri=True, timeout=30)) as database:
        return [row[0] for row in database.execute(sql)]


def node_of(worker: str, record: ClusterRecord) -> int:
    """The number of the node that started a worker ("host:process"); each node logs its own processes."""
    process = worker.rpartition(":")[2]
    logs = f"session_*/logs/worker-*-{process}.out"
    numbers = [node.number for node in record.nodes]
    return next(number for number in numbers if list((Path(record.temp_dir) / str(number)).glob(logs)))


def attribute(key: str) -> str:
    return f"SELECT value_json FROM trial_user_attributes WHERE key = '{key}'"


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    made = Rehearsal(tmp_path_factory.mktemp("rehearsal"))
    made.home.mkdir()
    write_images(made.folder / "images")
    made.run("up", "--nodes", "2", "--cpus-per-node", "1")
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


def test_what_the_nodes_do_not_see_ends_the_job_with_one_line_and_code_2(rehearsal: Rehearsal) -> None:
    missing = rehearsal.folder / "not" / "there"
    flags = rehearsal.flags("blind", "--data", str(missing))

    log = rehearsal.run("submit", "--", *flags, code=2)

    assert log.strip().splitlines()[-1].startswith(f"tune.py: no such folder or file: {missing}")
    assert "Traceback" not in log


def test_the_plain_line_of_ray_job_submit_searches_on_all_nodes_and_its_study_comes_home(
    rehearsal: Rehearsal,
) -> None:
    # Eight epochs keep the first node busy while the second one's worker imports torch.
    flags = (*rehearsal.images, "--trials", "4", "--max-epochs", "8", "--scheduler", "none")

    done = rehearsal.ray_job_submit(*flags)

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    study = rehearsal.home / "unfreeze/runs/demo-images"
    assert f"in a Ray job: searching on its cluster, with the study in {study}\n" in said
    assert rows(study, "SELECT state FROM trials") == ["COMPLETE"] * 4
    record, job = rehearsal.record, rehearsal.latest_job()
    assert {node_of(json.loads(worker), record) for worker in rows(study, attribute("worker"))} == {0, 1}
    assert job.driver_exit_code == 0
    assert (study / "report.html").is_file()
    rehearsal.run("fetch", "demo-images", "--from", job.submission_id, "--to", str(rehearsal.folder / "to"))
    fetched = rehearsal.folder / "to" / "demo-images"
    ranked = json.loads(rehearsal.run("leaderboard", str(fetched), "--json", module="analysis"))
    assert sorted(row["trial"] for row in ranked) == list(range(4))
    assert {(row["state"], row["epochs"]) for row in ranked} == {("complete", 8)}
    assert (fetched / "report.html").read_bytes() == (study / "report.html").read_bytes()
    left = list(Path(record.temp_dir).rglob("unfreeze-study-*"))
    assert left == [], "the package stayed on the cluster"


def test_a_study_in_which_no_trial_completes_is_a_failed_job(rehearsal: Rehearsal) -> None:
    broken = rehearsal.folder / "broken.pt"
    broken.write_bytes(b"no weights")

    done = rehearsal.ray_job_submit(
        *rehearsal.images, "--study", "broken", "--trials", "2", "--weights", str(broken)
    )

    job = rehearsal.latest_job()
    assert (done.returncode, job.status, job.driver_exit_code) == (1, "FAILED", 1), done.stdout + done.stderr
    assert "COMPLETE" not in rows(rehearsal.home / "unfreeze/runs/broken", "SELECT state FROM trials")
    assert "tune.py: " in done.stdout + done.stderr


def test_a_run_directory_in_the_jobs_own_folder_is_refused_with_the_exit_code_of_wrong_flags(
    rehearsal: Rehearsal,
) -> None:
    done = rehearsal.ray_job_submit("--data", "digits", "--runs-dir", "my/runs")

    job = rehearsal.latest_job()
    assert (done.returncode, job.status, job.driver_exit_code) == (1, "FAILED", 2), done.stdout + done.stderr
    assert "deleted with the job" in done.stdout + done.stderr


def test_a_trial_of_two_workers_fits_on_two_nodes_of_one_core_each(rehearsal: Rehearsal) -> None:
    flags = ("--study", "two", "--trials", "1", "--max-epochs", "1", "--workers-per-trial", "2")

    done = rehearsal.ray_job_submit(*rehearsal.images, *flags)

    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(rehearsal.home / "unfreeze/runs/two", "SELECT state FROM trials") == ["COMPLETE"]


def test_a_search_survives_a_lost_node_and_a_lost_head_and_is_stopped_and_continued(
    rehearsal: Rehearsal,
) -> None:
    """The last test of this file, because it kills the nodes that the others use."""
    flags = rehearsal.flags("mine", "--max-epochs", "20", "--scheduler", "none")
    lose_a_node_use_a_new_one_and_stop(rehearsal, (*flags, "--trials", "500"))
    num_trials = len(rehearsal.query("mine", "SELECT number FROM trials")) + 2
    flags = (*flags, "--trials", str(num_trials))
    ended, before, attempts_before = lose_the_head(rehearsal, flags)

    rehearsal.run("up", "--nodes", "2", "--cpus-per-node", "1")
    log = rehearsal.run("submit", "--", *flags)

    assert rehearsal.query("mine", "SELECT state FROM trials") == ["COMPLETE"] * num_trials
    epochs = rehearsal.query("mine", "SELECT trial || ':' || epoch FROM epochs")
    expected = [f"{trial}:{epoch}" for trial in range(num_trials) for epoch in range(1, 21)]
    assert sorted(epochs) == sorted(expected)
    attempts = attempts_of(rehearsal)
    assert {number for number in attempts_before if attempts[number] > attempts_before[number]}
    assert all(attempts[number] == attempts_before[number] for number in ended)
    kept = rehearsal.query("mine", EPOCH_ROWS)
    finished = tuple(f"{number}:" for number in ended)
    assert {row for row in before if row.startswith(finished)} <= set(kept)
    token = rehearsal.record.token_file.read_bytes()
    written = [path for folder in ("runs", "home") for path in (rehearsal.folder / folder).rglob("*")]
    assert not any(token in path.read_bytes() for path in written if path.is_file())
    assert token.decode() not in log


EPOCH_ROWS = "SELECT trial || ':' || epoch || ':' || metrics FROM epochs"


def attempts_of(rehearsal: Rehearsal) -> dict[int, int]:
    """How often each trial of the study was begun."""
    found = rehearsal.query("mine", attribute("attempts") + " ORDER BY trial_id")
    return dict(enumerate(map(int, found)))


def lose_a_node_use_a_new_one_and_stop(rehearsal: Rehearsal, flags: tuple[str, ...]) -> None:
    with rehearsal.submit(*flags) as job:
        rehearsal.wait_for_work_on(rehearsal.record.nodes[1], "mine", job)
        rehearsal.run("kill-node", "1")
        rehearsal.run("add-node")
        rehearsal.wait_for_work_on(rehearsal.record.nodes[2], "mine", job)
        listed = rehearsal.run("jobs").split()
        rehearsal.run("stop", listed[0])
        log = job.communicate(timeout=300)[0]
    assert job.returncode == 130, log
    assert "submit the same again to continue" in log
    # The count of a trial's crashes would not do: its next progress sets it to 0 again.
    assert [attempts for attempts in attempts_of(rehearsal).values() if attempts > 1], log


def lose_the_head(
    rehearsal: Rehearsal, flags: tuple[str, ...]
) -> tuple[list[int], list[str], dict[int, int]]:
    """The trials that had ended, the epochs, and each trial's attempts, as they were at the loss."""
    begun = attempts_of(rehearsal)
    with rehearsal.submit(*flags) as job:
        while attempts_of(rehearsal) == begun:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.1)
        kill_node(rehearsal.record, 0)  # a command would take seconds to start, in which the search may end
        log = job.communicate(timeout=120)[0]
    assert job.returncode == 1, log
    assert log.strip().splitlines()[-1].endswith("submit the same again to continue")
    ended = rehearsal.query("mine", "SELECT number FROM trials WHERE state = 'COMPLETE'")
    return ended, rehearsal.query("mine", EPOCH_ROWS), attempts_of(rehearsal)
