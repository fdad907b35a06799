"""Opening a searched study again: from its recorded flags, wherever it lies now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from cluster.study.reopening import config_of_study, reopen_study

FACTS: dict[str, Any] = {"data": {"classes": ["a", "b"], "fingerprint": "f"}, "image_size": 32}


def make_study(tmp_path: Path, **flags: Any) -> Path:
    config = StudyConfig(
        space="demo", data="digits", study="s", runs_dir=tmp_path, backbones=("lite0",), **flags
    )
    open_study(config, facts=FACTS).close()
    return config.directory


def test_the_flags_of_the_last_run_are_read_back(tmp_path: Path) -> None:
    directory = make_study(tmp_path, fit="pad", seed=3, time_budget="1h", concurrent=2)

    config = config_of_study(directory)

    assert (config.fit, config.seed, config.concurrent, config.backbones) == ("pad", 3, 2, ("lite0",))
    assert config.time_budget is None
    assert config.directory == directory


def test_a_study_that_was_moved_and_renamed_is_found_where_it_lies(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "before")
    moved = tmp_path / "after" / "other"
    moved.parent.mkdir()
    shutil.move(directory, moved)

    config = config_of_study(moved)
    study = reopen_study(config)
    study.close()

    assert config.directory == study.directory == moved
    assert str(tmp_path / "before") not in (config.tracking_uri or "") + config.storage_url
    assert study.records.study_id == 1
    assert not (tmp_path / "before" / "s").exists()


def test_opening_it_again_changes_nothing_in_study_json(tmp_path: Path) -> None:
    directory = make_study(tmp_path)
    before = (directory / "study.json").read_bytes()

    reopen_study(config_of_study(directory)).close()

    assert (directory / "study.json").read_bytes() == before


def test_flags_that_this_version_does_not_know_are_left_out(tmp_path: Path) -> None:
    directory = make_study(tmp_path)
    info = json.loads((directory / "study.json").read_text())
    info["flags"] |= {"of_another_version": 1}
    del info["flags"]["group_by"]
    (directory / "study.json").write_text(json.dumps(info))

    assert config_of_study(directory).group_by is None


def test_a_server_is_found_as_recorded_or_as_it_is_given(tmp_path: Path) -> None:
    directory = make_study(tmp_path)
    (directory / "study.db").unlink()
    info = json.loads((directory / "study.json").read_text())
    info["flags"]["storage"] = "postgresql://tester@host/db"
    (directory / "study.json").write_text(json.dumps(info))

    recorded = config_of_study(directory)
    given = config_of_study(directory, storage="postgresql://tester:hunter2@host/db")

    assert recorded.storage_url == "postgresql+psycopg://tester@host/db"
    assert given.storage_url == "postgresql+psycopg://tester:hunter2@host/db"


def test_a_study_without_its_database_or_its_facts_is_refused_in_one_line(tmp_path: Path) -> None:
    directory = make_study(tmp_path)
    (directory / "study.db").unlink()

    with pytest.raises(ValueError, match=r"study\.db is not there: pass --storage"):
        reopen_study(config_of_study(directory))
    (directory / "study.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a study: entries are missing"):
        config_of_study(directory)


def test_a_study_that_another_process_drives_is_refused(tmp_path: Path) -> None:
    directory = make_study(tmp_path)
    study = reopen_study(config_of_study(directory))

    with pytest.raises(ValueError, match="is being run by"):
        reopen_study(config_of_study(directory))
    study.close()
