"""A submitted search's flags that would be wrong on the cluster are refused before anything is uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.jobs.fetch import runs_dir_of
from cluster.jobs.flags import check_job_flags, check_job_folders
from cluster.jobs.submission import read_variables
from cluster.study.config import StudyConfig
from cluster.study.directory import _describe

JOB_FOLDER = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1")
GOOD = ("--space", "demo", "--runs-dir", "/shared/runs")


def test_paths_that_only_the_nodes_have_are_no_mistake() -> None:
    config = check_job_flags([*GOOD, "--data", "/only/there", "--weights", "/only/there/w.pt"])

    assert config.name == "demo-there"
    assert config.directory == Path("/shared/runs/demo-there")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--space", "demo", "--runs-dir", "my/runs"), "--runs-dir my/runs is relative, and a job's own"),
        ((*GOOD, "--data", "my/photos"), "--data my/photos is relative, and data is not uploaded"),
        ((*GOOD, "--cache-dir", "cache"), "--cache-dir cache is relative"),
        ((*GOOD, "--weights", "w.pt"), "--weights w.pt is relative"),
        ((*GOOD, "--warm-start", "auto", "p.json"), "--warm-start p.json is relative"),
        ((*GOOD, "--adress", "auto"), "unknown argument --adress; did you mean --address"),
        ((*GOOD, "--address", "auto"), "leave --address out"),
        ((*GOOD, "--storage", "sqlite:///my.db"), "--storage sqlite:///my.db is relative"),
        ((*GOOD, "--trials", "0"), "--trials must be positive"),
        (
            (*GOOD, "--storage", "postgresql://me:hunter2@db/x"),
            "set PGPASSWORD where the cluster's head node is",
        ),
        ((*GOOD, "--tracking-uri", "https://me:hunter2@ml"), "set MLFLOW_TRACKING_PASSWORD where"),
    ],
)
def test_what_means_nothing_on_the_cluster_is_refused_in_one_line(
    words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        check_job_flags(words)

    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_run_directory_inside_the_jobs_temporary_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="deleted with the job"):
        check_job_folders(StudyConfig(space="demo", runs_dir=JOB_FOLDER / "runs"))
    check_job_folders(StudyConfig(space="demo", runs_dir=Path("/tmp/ray/runs")))


def test_a_database_inside_the_jobs_temporary_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "working_dir_files/_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    lost = StudyConfig(space="demo", runs_dir=Path("/runs"), storage="sqlite:///my.db")

    with pytest.raises(ValueError, match=r"--storage sqlite:////.*/my.db lies in the job's temporary"):
        check_job_folders(lost)


def test_the_passwords_of_the_database_are_not_written_into_the_study() -> None:
    config = StudyConfig(space="demo", storage="postgresql://me:hun@ter2@db:5432/x")

    written = str(_describe(config, {}))

    assert "postgresql+psycopg://me@db:5432/x" in written
    assert "ter2" not in written
    assert "hun@ter2" in config.storage_url


def test_a_password_in_the_tracking_address_is_refused_since_mlflow_has_variables_for_it() -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        StudyConfig(space="demo", tracking_uri="https://me:hunter2@ml")


def test_variables_are_sent_with_their_value_here_or_the_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "birds")
    monkeypatch.delenv("NOT_SET", raising=False)

    assert read_variables(["AWS_PROFILE", "A=b=c", "EMPTY="]) == {
        "AWS_PROFILE": "birds",
        "A": "b=c",
        "EMPTY": "",
    }
    with pytest.raises(ValueError, match="--env NOT_SET: not set here"):
        read_variables(["NOT_SET"])


@pytest.mark.parametrize("name", ["PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN=abc"])
def test_secrets_are_not_sent_as_variables_since_ray_logs_them(name: str) -> None:
    with pytest.raises(ValueError, match="set it where the cluster's nodes are started") as raised:
        read_variables([name])

    assert "abc" not in str(raised.value)


def test_the_runs_directory_of_a_job_is_read_from_its_command() -> None:
    command = "python tune.py --space demo --runs-dir '/shared/my runs' --address auto"

    assert runs_dir_of(command) == Path("/shared/my runs")
    with pytest.raises(ValueError, match="no search"):
        runs_dir_of("python train.py")
