"""Studies, runs and data of any name: leaderboard, report, copy, MLflow and the served model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from analysis.leaderboard import load_leaderboard
from analysis.reading import load_study
from analysis.report import write_report
from analysis.tracking import log_model, sync
from analysis.tracking.model import make_input_example, registered_name
from analysis.tracking.server import find_tracking_uri, public_address
from cluster.jobs.fetch import copy_database
from contract.sqlite_files import sqlite_path, sqlite_url
from contract.study_layout import StudyPaths
from tests.study_factory import FakeTrial, make_study
from tests.unit.analysis.test_serving import export_dir as export_dir

ODD = ("my%20 runs", "100%", "what? #1", "[x]{y}", "tulipán 图", "-dash", "a@b:c;d&e=f", 'it\'s "so"')


@pytest.mark.parametrize("name", ODD)
def test_a_study_of_any_name_is_read_reported_and_copied(name: str, tmp_path: Path) -> None:
    study = make_study(tmp_path / name / name, [FakeTrial(curve=(0.5, 0.75))])

    (row,) = load_leaderboard([load_study(study)])
    page = write_report(study)
    (tmp_path / "copy").mkdir()
    copy_database(StudyPaths(study), StudyPaths(tmp_path / "copy"))

    assert row["val_accuracy"] == 0.75
    assert page == study / "report.html"
    assert (tmp_path / "copy" / "study.db").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "copy"])


@pytest.mark.parametrize("name", ODD)
def test_mlflow_lies_beside_a_study_of_any_name(name: str, tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / name / "flowers", []))

    uri = find_tracking_uri(study)

    assert sqlite_path(uri) == study.paths.tracking_database
    assert public_address(uri) == uri


@pytest.mark.parametrize("name", [*ODD, "a/b:c.d", os.fsdecode(b"caf\xe9")])
def test_a_registered_name_needs_no_encoding_in_a_model_uri(name: str) -> None:
    assert not set(registered_name(name)) & set("/:.%?#[]{}@&=;'\"\\")
    registered_name(name).encode()


def test_data_whose_name_is_no_utf8_is_told_in_report_and_facts(tmp_path: Path) -> None:
    source = os.fsdecode(b"/data/caf\xe9")
    study = make_study(tmp_path / "flowers", [FakeTrial()])
    facts = json.loads((study / "study.json").read_text(encoding="utf-8"))
    facts["data"]["source"] = source
    (study / "study.json").write_text(json.dumps(facts), encoding="ascii")

    assert load_study(study).data == "caf\N{REPLACEMENT CHARACTER}"
    assert "caf\N{REPLACEMENT CHARACTER}" in write_report(study).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "name"), [("what #1 [x] ü", "my%20 photos?#[x]"), ("what? 100%", "tulipán")]
)
def test_a_model_below_folders_of_any_name_is_logged_and_answers(
    runs: str, name: str, tmp_path: Path, export_dir: Path
) -> None:
    import mlflow

    study = make_study(tmp_path / runs / name, [FakeTrial()])
    shutil.copytree(export_dir, study / "model")
    uri = sqlite_url(study.parent / "mlflow.db")

    model = log_model(study, study / "model")

    assert [path.name for path in tmp_path.iterdir()] == [runs]
    mlflow.set_tracking_uri(uri)
    try:
        found = mlflow.pyfunc.load_model(model).predict(make_input_example(16))
        registered = mlflow.pyfunc.load_model(f"models:/{registered_name(name)}/1")
    finally:
        mlflow.set_tracking_uri("")
    assert len(found) == 1
    assert registered.metadata.metadata["study"] == "s"


@pytest.mark.slow
def test_a_sync_below_a_folder_with_a_percent_code_leaves_no_other_folder(tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs %20#?" / "flowers", [FakeTrial()])

    line = sync(study)

    assert line.startswith("1 run written to sqlite:///")
    assert [path.name for path in tmp_path.iterdir()] == ["runs %20#?"]
    assert sync(study).startswith("up to date")
