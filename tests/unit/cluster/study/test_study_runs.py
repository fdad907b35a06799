"""study.json: its status changes when a search begins and ends, and every run stays with its conditions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.reading import load_study
from analysis.report.provenance import provenance_section
from cluster.study import directory as study_directory
from cluster.study.config import StudyConfig
from cluster.study.directory import open_study
from contract.study_layout import RunOutcome

FACTS: dict[str, Any] = {
    "space_table": [{"name": "x", "values": "0..1"}],
    "data": {"source": "digits", "fingerprint": "abc"},
    "image_size": 32,
    "max_epochs": 4,
}


def run(tmp_path: Path, *, how: RunOutcome | None = RunOutcome.FINISHED, **flags: Any) -> None:
    """Begin and end one search; without `how` it ends as if killed."""
    study = open_study(StudyConfig(space="demo", data="digits", runs_dir=tmp_path, **flags), facts=FACTS)
    study.begin()
    if how is not None:
        study.end(how)
    study.close()


def document(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "demo-digits" / "study.json").read_text(encoding="utf-8"))
    return found


def test_opening_a_finished_study_changes_nothing_in_study_json(tmp_path: Path) -> None:
    run(tmp_path)
    before = document(tmp_path)

    study = open_study(StudyConfig(space="demo", data="digits", runs_dir=tmp_path, trials=7), facts=FACTS)
    study.note_finished()
    study.close()

    assert document(tmp_path) == before
    assert before["status"] == "finished"


def test_a_study_is_running_once_its_search_begins(tmp_path: Path) -> None:
    study = open_study(StudyConfig(space="demo", data="digits", runs_dir=tmp_path), facts=FACTS)
    assert document(tmp_path)["status"] == "new"

    study.begin()

    assert document(tmp_path)["status"] == "running"
    study.close()


def test_every_run_keeps_its_flags_versions_revision_hardware_times_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_directory, "_git_revision", lambda: "first")
    run(tmp_path, trials=5, how=RunOutcome.TIME_BUDGET)
    run(tmp_path, trials=6, how=None)
    monkeypatch.setattr(study_directory, "_git_revision", lambda: "second")
    run(tmp_path, trials=8)

    runs = document(tmp_path)["runs"]
    assert [one["how"] for one in runs] == ["time budget", "killed", "finished"]
    assert [one["flags"]["trials"] for one in runs] == [5, 6, 8]
    assert [one["git_revision"] for one in runs] == ["first", "first", "second"]
    assert [one["ended"] is None for one in runs] == [False, True, False]
    for one in runs:
        assert one["started"] and one["versions"]["optuna"] and one["hardware"]["cpus"]


def test_a_run_that_was_killed_after_its_last_trial_leaves_a_study_that_is_put_right(tmp_path: Path) -> None:
    run(tmp_path, how=None)
    assert document(tmp_path)["status"] == "running"

    study = open_study(StudyConfig(space="demo", data="digits", runs_dir=tmp_path), facts=FACTS)
    study.note_finished()
    study.close()

    assert document(tmp_path)["status"] == "finished"
    assert [one["how"] for one in document(tmp_path)["runs"]] == ["killed"]


def test_the_report_shows_every_run_and_what_it_had_otherwise(tmp_path: Path) -> None:
    run(tmp_path, trials=5, how=RunOutcome.TIME_BUDGET)
    run(tmp_path, trials=8)

    page = provenance_section(load_study(tmp_path / "demo-digits")).body

    assert "<td>time budget</td>" in page
    assert "<td>trials 5</td>" in page
