"""Environment variables of others: each is honoured, or named in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from cluster.study.config import StudyConfig
from cluster.study.environment_lines import describe_environment, follow_environment
from tests.other_user import STRANGER, call_as, needs_root, open_way


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


def make(tmp_path: Path, **flags: object) -> StudyConfig:
    given = {"space": "demo", "runs_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"} | flags
    return StudyConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "pass --address 10.0.0.1:6379"),
        ({"MLFLOW_EXPERIMENT_NAME": "e", "MLFLOW_RUN_ID": "r"}, "MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID not"),
        ({"MLFLOW_EXPERIMENT_ID": "7"}, "MLFLOW_EXPERIMENT_ID not used"),
        ({"OMP_NUM_THREADS": "7"}, "OMP_NUM_THREADS=7 not used in trials: each has 2"),
        ({"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, "MKL_NUM_THREADS=1 not used"),
    ],
)
def test_a_variable_that_does_not_count_is_named_in_one_line(
    variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (line,) = describe_environment(make(tmp_path, cpus_per_trial=2.0), variables)

    assert expected in line


def test_variables_that_say_what_is_done_anyway_need_no_line(tmp_path: Path) -> None:
    said = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "10.0.0.1:6379", "MLFLOW_RUN_ID": ""}

    assert not list(describe_environment(make(tmp_path, address="10.0.0.1:6379"), said))


def test_mlflow_lies_where_its_variable_says_unless_a_flag_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")

    config = make(tmp_path)

    assert config.tracking_uri == "http://mlflow:5000"
    (line,) = describe_environment(config, {"MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    assert "http://mlflow:5000" in line
    assert make(tmp_path, tracking_uri="http://other:5000").tracking_uri == "http://other:5000"


def test_a_password_in_mlflows_variable_is_refused_before_it_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")

    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI holds a password") as refused:
        make(tmp_path)

    assert "secret" not in str(refused.value)


def test_folders_that_can_be_written_are_kept(tmp_path: Path) -> None:
    config = make(tmp_path)

    assert follow_environment(config, {}) == (config, [])
    assert not (tmp_path / "cache").exists()


@needs_root
def test_a_second_user_of_a_cache_gets_a_private_one_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_way(tmp_path) / "cache" / "images").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary").chmod(0o1777)
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def follow() -> str:
        config, lines = follow_environment(make(tmp_path), {})
        mode = Path(config.cache_dir or "").parent.stat().st_mode
        return f"{config.cache_dir}|{mode & 0o777:o}|{'|'.join(lines)}"

    told = call_as(STRANGER, follow)

    private = tmp_path / "temporary" / f"unfreeze-{STRANGER}" / "cache"
    why = f"{tmp_path / 'cache'} cannot be written"
    assert (
        told
        == f"{private}|700|the cache of this run is {private}, since {why}; --cache-dir DIR names another"
    )


@needs_root
def test_runs_that_cannot_be_written_are_refused_before_an_image_is_read(tmp_path: Path) -> None:
    open_way(tmp_path)

    told = call_as(STRANGER, lambda: follow_environment(make(tmp_path), {}))

    assert (
        f"ValueError: --runs-dir {tmp_path / 'runs'}: {tmp_path} cannot be written; pass another one" in told
    )
