"""A job uploads the code that git tracks, and no data, runs or secrets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.ray_tune.upload import LIMIT_BYTES, list_untracked, list_upload, staged_project

TRACKED = ("tune.py", "cluster/ray_tune/run.py", "cluster/launch/aws.yaml", "search_spaces/demo.py")
TRACKED_BUT_LEFT = ("README.md", "tests/test_x.py", "cluster/.env", "cluster/my_token", "cluster/id_rsa")
UNTRACKED = ("search_spaces/mine.py", "runs/demo/study.json", "photos/1.jpg", "cluster/__pycache__/run.pyc")


def write(project: Path, *names: str) -> None:
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path, *TRACKED, *TRACKED_BUT_LEFT)
    for words in (("init", "--quiet"), ("add", "--all")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    write(tmp_path, *UNTRACKED)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    return tmp_path


def test_only_code_that_git_tracks_is_uploaded(project: Path) -> None:
    with staged_project(project) as folder:
        staged = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        content = (folder / "tune.py").read_text()

    assert staged == set(TRACKED)
    assert content == "tune.py"
    assert not folder.exists()


def test_new_code_that_stays_behind_is_named(project: Path) -> None:
    assert list_untracked(project) == [Path("search_spaces/mine.py")]


def test_a_deleted_file_is_no_mistake(project: Path) -> None:
    (project / "cluster/ray_tune/run.py").unlink()

    assert Path("cluster/ray_tune/run.py") not in list_upload(project)


def test_without_git_all_code_is_uploaded_but_no_secret(tmp_path: Path) -> None:
    write(tmp_path, *TRACKED, *TRACKED_BUT_LEFT, *UNTRACKED)

    assert {str(path) for path in list_upload(tmp_path)} == {*TRACKED, "search_spaces/mine.py"}


def test_an_upload_that_is_too_large_to_be_code_is_refused_with_the_largest_file(project: Path) -> None:
    with (project / "cluster/ray_tune/run.py").open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)

    with pytest.raises(
        ValueError, match=r"has 50 MiB, more than the 50 .* first cluster/ray_tune/run.py \(50 MiB\)"
    ):
        list_upload(project)


def test_the_projects_own_code_is_all_there() -> None:
    names = {str(path) for path in list_upload()}

    assert {
        "tune.py",
        "finalize.py",
        "wiring/plan.py",
        "analysis/report/report.css",
        "cluster/study/passwords.py",
    } <= names
