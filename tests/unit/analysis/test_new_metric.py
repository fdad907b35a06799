"""A new metric is a row of METRICS and a number in the report: everything else reads it from there."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from analysis.groups import group_leaderboard
from analysis.leaderboard import hyperparameter_names, load_leaderboard, print_table
from analysis.reading import StudyInfo, load_study
from analysis.report.answer import say_answer
from analysis.report.board import render_board_page
from analysis.report.findings import find_out
from analysis.tracking.following import StudyFollower
from analysis.tracking.runs import study_points, trial_params, trial_points
from analysis.tracking.view import experiment_tags
from contract.metrics import METRICS, Detail, Metric, Unit, direction_of
from tests.study_factory import FakeTrial, make_study

ECE = Metric(
    name="val_ece",
    title="val ece",
    unit=Unit.SHARE,
    meaning="mean distance of confidence and accuracy",
    maximize=False,
    ranks_trials=True,
    detail=Detail.HEADLINE,
)
TRIALS = (
    FakeTrial(curve=[0.9, 0.9], metrics={"val_ece": [0.08, 0.2]}),
    FakeTrial(curve=[0.5, 0.5], metrics={"val_ece": [0.1, 0.04]}),
)


@pytest.fixture(autouse=True)
def new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "val_ece", ECE)


@pytest.fixture
def study(tmp_path: Path) -> StudyInfo:
    """A search that wanted less of the new metric."""
    direction = direction_of("val_ece").value
    return load_study(make_study(tmp_path / "s", TRIALS, metric="val_ece", direction=direction))


def test_the_lowest_value_is_ranked_first_at_its_own_epoch(study: StudyInfo) -> None:
    rows = load_leaderboard([study])

    assert [(row["trial"], row["kept_at_epoch"], row["val_ece"]) for row in rows] == [
        (1, 2, 0.04),
        (0, 1, 0.08),
    ]


def test_it_is_no_hyperparameter(study: StudyInfo) -> None:
    rows = load_leaderboard([study])

    assert "val_ece" not in hyperparameter_names(rows)
    assert "val_ece" not in find_out(study).searched
    assert "val_ece" not in trial_params(rows[0])
    assert trial_params(rows[0])["learning_rate"]


def test_the_printed_table_has_a_column_for_it(study: StudyInfo) -> None:
    console = Console(width=100, file=io.StringIO(), color_system=None)

    print_table([study], console=console)

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    header = next(line for line in lines if line.startswith("trial"))
    assert "val ece" in header
    assert "0.0400" in lines[lines.index(header) + 1]


def test_groups_are_ranked_by_it_and_other_studies_show_it(study: StudyInfo, tmp_path: Path) -> None:
    accurate = load_study(make_study(tmp_path / "t", TRIALS))

    assert group_leaderboard([study], by="backbone")[0]["trial"] == 1
    assert group_leaderboard([accurate], by="backbone")[0]["val_ece"] == 0.08


def test_the_page_says_what_it_means(study: StudyInfo) -> None:
    page = render_board_page([study])

    assert (
        '"name":"val_ece","label":"val ece","about":"mean distance of confidence and accuracy, 0..1"' in page
    )


def test_the_answer_is_the_lowest_value_in_percent(study: StudyInfo) -> None:
    best, *_ = say_answer(find_out(study))

    assert best.startswith("Trial 1 is best")
    assert "val_ece 4.0% at epoch 2" in best


def test_a_front_with_it_keeps_the_trial_that_has_less(tmp_path: Path) -> None:
    both = {"metrics": ["val_accuracy", "val_ece"], "directions": ["maximize", direction_of("val_ece").value]}
    honest = FakeTrial(curve=[0.4], metrics={"val_ece": [0.02]})
    study = load_study(make_study(tmp_path / "s", [*TRIALS, honest], **both))
    console = Console(width=200, file=io.StringIO(), color_system=None)

    print_table([study], console=console)

    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Pareto front (val_accuracy, val_ece): 0 (0.9000, 0.0800); 2 (0.4000, 0.0200)" in printed


@pytest.mark.parametrize(
    ("rule", "kept"), [("last", [0.5, 0.8, 0.7]), ("lowest_loss", [0.5, 0.7]), ("best", [0.5, 0.8])]
)
def test_mlflow_gets_the_value_of_the_epoch_that_is_kept_so_far(
    tmp_path: Path, rule: str, kept: list[float]
) -> None:
    trial = FakeTrial(
        curve=[0.5, 0.8, 0.7], metrics={"val_loss": [0.6, 0.7, 0.4]}, config={"kept_epoch": rule}
    )
    follower = StudyFollower(load_study(make_study(tmp_path / "kept", [trial])))

    first = follower.read_changes(written_epochs={}, closed=set())
    again = follower.read_changes(written_epochs={0: 2}, closed=set())

    assert first[0].value == again[0].value == kept[-1]
    best = [
        point for point in trial_points(first[0], metric="val_accuracy") if point[0] == "best_val_accuracy"
    ]
    assert [point[1] for point in best] == kept
    assert [record.is_kept for record in again[0].epochs] == [rule != "best"]


def test_mlflow_gets_its_curve_and_the_lowest_value_as_the_best(study: StudyInfo) -> None:
    changes = StudyFollower(study).read_changes(written_epochs={}, closed=set())

    points = {change.row["trial"]: trial_points(change, metric="val_ece") for change in changes}
    summary = study_points(study, [(change.row, change.value) for change in changes])
    assert [point[1] for point in points[0] if point[0] == "val_ece"] == [0.08, 0.2]
    assert [point[1] for point in points[0] if point[0] == "best_val_ece"] == [0.08]
    assert [point[1] for point in points[1] if point[0] == "best_val_ece"] == [0.1, 0.04]
    assert [point[1] for point in summary if point[0] == "best_val_ece"] == [0.08, 0.04]
    assert '"orderByAsc": true' in experiment_tags(study)["mlflow.sharedViewState.leaderboard"]
