"""Ray's own `ray job submit` on a cluster of two nodes: the search uses both, the job has its exit code."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs.server import JobServer
from cluster.rehearsal.record import ClusterRecord, read_record
from tests.tiny_data import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


class Cluster:
    """A rehearsal cluster of this test's own; its users have a home of their own, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "UNFREEZE_", "MLFLOW_"))}
        self.environment = kept | {"XDG_STATE_HOME": str(folder), "HOME": str(folder / "home")}

    @property
    def record(self) -> ClusterRecord:
        record = read_record(self.folder / "unfreeze")
        assert record is not None
        return record

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def ray_job_submit(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """The plain line of the documentation, with the flags of a search and none of the cluster."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
        return self.run(*ray, "--", "python", "tune.py", *flags, **self.record.environment())

    def fetch(self, study: str, job: str) -> Path:
        words = ("fetch", study, "--from", job, "--to", str(self.folder / "fetched"))
        done = self.run(sys.executable, "-m", "cluster", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.folder / "fetched" / study


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("jobs"))
    (made.folder / "home").mkdir()
    write_images(made.folder / "images")
    up = made.run(sys.executable, "-m", "cluster", "up", "--nodes", "2", "--cpus-per-node", "1")
    assert up.returncode == 0, up.stdout + up.stderr
    yield made
    made.run(sys.executable, "-m", "cluster", "down")


def rows(study: Path, sql: str) -> list[str]:
    with closing(sqlite3.connect(f"file:{study / 'study.db'}?mode=ro", uri=True)) as database:
        return [row[0] for row in database.execute(sql)]


def node_of(worker: str, record: ClusterRecord) -> int:
    """The number of the node that started a worker ("host:process"); each node logs its own processes."""
    process = worker.rpartition(":")[2]
    folders = [node.number for node in record.nodes]
    logs = f"session_*/logs/worker-*-{process}.out"
    return next(number for number in folders if list((Path(record.temp_dir) / str(number)).glob(logs)))


def latest_job(record: ClusterRecord) -> Any:
    return JobServer(record.address, token=record.token_file.read_text()).jobs()[0]


def test_the_plain_line_searches_on_all_nodes_of_the_jobs_cluster(cluster: Cluster) -> None:
    images = str(cluster.folder / "images")
    flags = ("--space", "demo", "--data", images, "--image-size", "32", "--trials", "6", "--max-epochs", "4")

    done = cluster.ray_job_submit(*flags, "--scheduler", "none")

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    study = cluster.folder / "home/unfreeze/runs/demo-images"
    assert f"in a Ray job: searching on its cluster, with the study in {study}\n" in said
    assert rows(study, "SELECT state FROM trials") == ["COMPLETE"] * 6
    named = rows(study, "SELECT value_json FROM trial_user_attributes WHERE key = 'worker'")
    assert {node_of(json.loads(worker), cluster.record) for worker in named} == {0, 1}
    assert latest_job(cluster.record).driver_exit_code == 0
    assert (study / "report.html").is_file()
    fetched = cluster.fetch("demo-images", latest_job(cluster.record).submission_id)
    assert len(rows(fetched, "SELECT state FROM trials")) == 6
    assert (fetched / "report.html").read_bytes() == (study / "report.html").read_bytes()
    left = list(Path(cluster.record.temp_dir).rglob("unfreeze-study-*"))
    assert left == [], "the package stayed on the cluster"


def test_a_study_in_which_no_trial_completes_is_a_failed_job(cluster: Cluster) -> None:
    broken = cluster.folder / "broken.pt"
    broken.write_bytes(b"no weights")
    flags = ("--space", "demo", "--data", str(cluster.folder / "images"), "--image-size", "32")

    done = cluster.ray_job_submit(*flags, "--study", "broken", "--trials", "6", "--weights", str(broken))

    job = latest_job(cluster.record)
    assert (done.returncode, job.status, job.driver_exit_code) == (1, "FAILED", 1), done.stdout + done.stderr
    study = cluster.folder / "home/unfreeze/runs/broken"
    assert "COMPLETE" not in rows(study, "SELECT state FROM trials")
    assert "tune.py: " in done.stdout + done.stderr


def test_the_exit_code_of_wrong_flags_is_that_of_the_job(cluster: Cluster) -> None:
    done = cluster.ray_job_submit("--space", "demo", "--data", str(cluster.folder / "not-there"))

    job = latest_job(cluster.record)
    assert (done.returncode, job.status, job.driver_exit_code) == (1, "FAILED", 2), done.stdout + done.stderr


def test_a_run_directory_in_the_jobs_own_folder_is_refused(cluster: Cluster) -> None:
    done = cluster.ray_job_submit("--space", "demo", "--data", "digits", "--runs-dir", "my/runs")

    assert latest_job(cluster.record).driver_exit_code == 2
    assert "deleted with the job" in done.stdout + done.stderr


def test_a_trial_of_two_workers_fits_on_two_nodes_of_one_core_each(cluster: Cluster) -> None:
    flags = (
        "--space",
        "demo",
        "--data",
        str(cluster.folder / "images"),
        "--image-size",
        "32",
        "--trials",
        "1",
    )

    done = cluster.ray_job_submit(*flags, "--max-epochs", "1", "--study", "two", "--workers-per-trial", "2")

    assert done.returncode == 0, done.stdout + done.stderr
    study = cluster.folder / "home/unfreeze/runs/two"
    assert rows(study, "SELECT state FROM trials") == ["COMPLETE"]
