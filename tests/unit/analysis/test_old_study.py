"""A study that commit 086efa2 made is read as those of today are."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from analysis import load_epochs, load_trials
from analysis.__main__ import main
from analysis.leaderboard import find_varying, load_leaderboard
from analysis.reading import load_study
from analysis.report import write_report
from analysis.tracking.following import StudyFollower
from analysis.tracking.runs import study_params, trial_params, trial_points, trial_tags
from contract.messages import State

MADE_THEN = Path(__file__).parents[2] / "data" / "study_086efa2"


@pytest.fixture
def study_dir(tmp_path: Path) -> Path:
    return shutil.copytree(MADE_THEN, tmp_path / "old086")


def test_its_trials_are_ranked_with_hyperparameters_and_metrics_under_todays_names(study_dir: Path) -> None:
    rows = load_leaderboard([load_study(study_dir)])

    assert [row["trial"] for row in rows] == [1, 0, 3, 2]
    assert [row["state"] for row in rows] == [State.COMPLETE, State.COMPLETE, State.PRUNED, State.PRUNED]
    assert {row["max_epochs"] for row in rows} == {2}
    assert rows[0]["learning_rate"] == pytest.approx(1.5e-3)
    assert rows[0]["last_learning_rate"] < rows[0]["learning_rate"]
    assert rows[0]["val_accuracy"] == pytest.approx(0.9721, abs=1e-4)
    assert "prior" not in rows[0] and rows[0]["recipe"] == "top stages"
    assert set(find_varying(rows)) == {
        *("unfreeze_depth", "batch_size", "learning_rate", "policy", "dropout", "head_width"),
    }


def test_the_leaderboard_opens_it_in_every_form(study_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for form in ([], ["--json"], ["--csv"], ["--html"], ["--by", "backbone"]):
        assert main(["leaderboard", str(study_dir), *form]) == 0
        printed.append(capsys.readouterr().out)

    table, as_json, as_csv, page, groups = printed
    assert "0.9721" in table and "Trial 1 is better than trial 0" in " ".join(table.split())
    assert [row["trial"] for row in json.loads(as_json)] == [1, 0, 3, 2]
    assert next(csv.DictReader(io.StringIO(as_csv)))["state"] == "complete"
    assert '"label":"val acc"' in page
    assert "lite0" in groups


def test_status_and_compare_open_it(study_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(study_dir, study_dir.parent / "again" / "old086")

    assert main(["status", str(study_dir)]) == 0
    assert main(["compare", str(study_dir), str(other)]) == 0

    assert "nothing changed but the name" in capsys.readouterr().out


def test_its_runs_in_mlflow_have_the_best_value_of_each_trial(study_dir: Path) -> None:
    study = load_study(study_dir)

    changes = StudyFollower(study).read_changes(written_epochs={}, closed=set())

    best = {change.row["trial"]: change.value for change in changes}
    assert best[1] == pytest.approx(0.9721, abs=1e-4)
    points = trial_points(changes[1], metric=study.metric)
    assert {"val_accuracy", "last_learning_rate", "best_val_accuracy", "seconds"} <= {
        name for name, *_ in points
    }
    assert "epoch" not in {name for name, *_ in points}
    assert trial_params(changes[1].row)["max_epochs"] == "2"
    assert trial_tags(study, changes[1].row)["recipe"] == "top stages"
    assert study_params(study)["space.learning_rate"]


@pytest.mark.slow  # plotly, Optuna and pandas take seconds to import
def test_report_page_and_frames_open_it(study_dir: Path) -> None:
    page = write_report(study_dir).read_text(encoding="utf-8")
    trials, epochs = load_trials(study_dir), load_epochs(study_dir)

    assert "Trial 1 is best" in page
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert epochs["last_learning_rate"].notna().all()
    assert "learning_rate" not in epochs.columns
