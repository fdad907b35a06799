"""Names of studies and folders with characters that mean something to a URL, a terminal or a database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.study.config import StudyConfig
from contract.sqlite_files import sqlite_path

KEPT = ("my%20photos", "what? #1", "[x] {y}", "a@b:c", "tulipán 图", "-dash", "it's", "100%")


def make(tmp_path: Path, **flags: object) -> StudyConfig:
    given = {"space": "demo", "runs_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"} | flags
    return StudyConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KEPT)
def test_a_data_folders_name_is_kept_in_the_studys(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()

    config = make(tmp_path, data=str(tmp_path / name))

    assert config.name == f"demo-{name}"
    assert sqlite_path(config.storage_url) == tmp_path / "runs" / config.name / "study.db"
    assert sqlite_path(str(config.tracking_uri)) == tmp_path / "runs" / "mlflow.db"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"f\xfcr-\xff", "demo-f_r-_"),
        (b"new\nline\ttab", "demo-new_line_tab"),
        (b" blanks ", "demo-blanks"),
        (b"back\\slash", "demo-back_slash"),
        (b"   ", "demo-data"),
    ],
)
def test_a_data_folders_name_is_made_plain_where_it_must_be(
    name: bytes, expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()

    assert make(tmp_path, data=str(folder)).name == expected


@pytest.mark.parametrize("letter", ["n", "ü", "图"])
def test_a_long_name_of_data_is_cut_and_two_of_them_stay_apart(letter: str, tmp_path: Path) -> None:
    most = 250 // len(letter.encode())
    names = [letter * most, letter * (most - 1)]
    for name in names:
        (tmp_path / name).mkdir()

    first, second = (make(tmp_path, data=str(tmp_path / name)).name for name in names)

    assert first != second
    assert all(len(name.encode()) < 150 for name in (first, second))
    assert first == make(tmp_path, data=str(tmp_path / names[0])).name


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "new\nline", "\udcff", "x" * 201, "", " ", "a\\b"])
def test_a_study_that_no_folder_can_be_called_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain name without slashes"):
        make(tmp_path, study=name)


@pytest.mark.parametrize("name", KEPT[:-3])
def test_a_study_may_have_any_other_name(name: str, tmp_path: Path) -> None:
    assert make(tmp_path, study=name).directory == tmp_path / "runs" / name


def test_runs_whose_folder_no_database_can_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no UTF-8"):
        make(tmp_path, runs_dir=tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match="SQLite takes"):
        make(tmp_path, runs_dir=tmp_path / ("d" * 250) / ("e" * 250))


def test_a_relative_database_is_made_absolute_as_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "my%20 runs?"
    odd.mkdir()
    monkeypatch.chdir(odd)

    config = make(tmp_path, storage="sqlite:///s%20x.db?timeout=5", tracking_uri="sqlite:///m.db")

    assert sqlite_path(config.storage_url) == odd / "s x.db"
    assert config.storage_url.endswith("?timeout=5")
    assert sqlite_path(str(config.tracking_uri)) == odd / "m.db"
