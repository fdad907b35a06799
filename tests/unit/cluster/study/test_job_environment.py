"""A tune.py in a Ray job: it joins the job's cluster, and keeps studies where they outlive the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.jobs.flags import check_job_flags
from cluster.study.config import StudyConfig
from cluster.study.job_environment import JOB_VARIABLE


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home directory of a job's process, in whose environment no run directory is set."""
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UNFREEZE_RUNS", raising=False)
    return tmp_path


def test_rays_name_of_the_variable_is_the_one_that_is_looked_for() -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert JOB_VARIABLE == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_a_search_in_a_job_joins_the_jobs_cluster(job: Path) -> None:
    assert StudyConfig(space="demo").address == "auto"
    assert StudyConfig(space="demo", address="10.0.0.1:6379").address == "10.0.0.1:6379"


def test_a_search_outside_a_job_starts_ray_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_VARIABLE, raising=False)

    assert StudyConfig(space="demo").address is None
    assert StudyConfig(space="demo").runs_dir == Path("runs").absolute()


def test_the_studies_of_a_job_lie_in_the_home_directory_or_where_the_head_node_says(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert StudyConfig(space="demo").runs_dir == job / "unfreeze/runs"

    monkeypatch.setenv("UNFREEZE_RUNS", "/mnt/shared/runs")

    assert StudyConfig(space="demo").runs_dir == Path("/mnt/shared/runs")
    assert StudyConfig(space="demo", runs_dir=Path("/given")).runs_dir == Path("/given")
    assert StudyConfig(space="demo").tracking_uri == "sqlite:////mnt/shared/runs/mlflow.db"


def test_submit_leaves_the_run_directory_to_the_job() -> None:
    assert check_job_flags(["--space", "demo"]).name == "demo-digits"
