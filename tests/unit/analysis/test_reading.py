"""Reading the study database: rows of trials and epochs, finding a study, its status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis.leaderboard import load_leaderboard
from analysis.reading import TRIAL_COLUMNS, find_study, load_epochs, load_study, load_trial_rows, load_trials
from analysis.status import load_status, print_status
from tests.study_factory import STARTED, FakeTrial, make_study, record_epochs

NAN = float("nan")
INF = float("inf")


def test_a_row_holds_the_metrics_of_the_best_epoch(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", [FakeTrial(curve=[0.2, 0.8, 0.6])]))

    (row,) = load_trial_rows(study)

    assert (row["kept_at_epoch"], row["epochs"], row["val_accuracy"]) == (2, 3, 0.8)
    assert row["val_loss"] == pytest.approx(1.3 * 0.2)


@pytest.mark.parametrize(("rule", "epoch"), [("last", 4), ("lowest_loss", 3), ("best", 2), (None, 2)])
def test_a_row_holds_the_metrics_of_the_epoch_that_its_rule_keeps(
    tmp_path: Path, rule: str | None, epoch: int
) -> None:
    curve, losses = [0.5, 0.8, 0.7, 0.6], [0.9, 0.6, 0.4, 0.7]
    config = {} if rule is None else {"kept_epoch": rule}
    trial = FakeTrial(curve=curve, metrics={"val_loss": losses}, config=config)
    study = load_study(make_study(tmp_path / "s", [trial]))

    (row,) = load_trial_rows(study)

    assert (row["kept_at_epoch"], row["epochs"]) == (epoch, 4)
    assert (row["val_accuracy"], row["val_loss"]) == (curve[epoch - 1], losses[epoch - 1])


def test_an_epoch_whose_loss_is_no_number_does_not_have_the_lowest(tmp_path: Path) -> None:
    trial = FakeTrial(
        curve=[0.5, 0.9, 0.8], metrics={"val_loss": [0.6, NAN, 0.7]}, config={"kept_epoch": "lowest_loss"}
    )
    study = load_study(make_study(tmp_path / "s", [trial]))

    assert load_trial_rows(study)[0]["kept_at_epoch"] == 1


def test_trials_are_ranked_by_the_epochs_that_they_keep(tmp_path: Path) -> None:
    peak = FakeTrial(curve=[0.5, 0.9, 0.6], config={"kept_epoch": "last"})
    steady = FakeTrial(curve=[0.5, 0.6, 0.7], config={"kept_epoch": "last"})
    study = load_study(make_study(tmp_path / "s", [peak, steady]))

    rows = load_leaderboard([study])
    status = load_status(study)

    assert [(row["trial"], row["val_accuracy"]) for row in rows] == [(1, 0.7), (0, 0.6)]
    assert status["best"] == {"trial": 1, "value": 0.7, "epoch": 3}


def test_the_budget_and_the_learning_rate_of_a_row_are_hyperparameters(tmp_path: Path) -> None:
    trial = FakeTrial(curve=[0.5, 0.6], config={"max_epochs": 7, "learning_rate": 0.02})
    study = load_study(make_study(tmp_path / "s", [trial]))

    (row,) = load_trial_rows(study)

    assert (row["max_epochs"], row["epochs"], row["learning_rate"]) == (7, 2, 0.02)
    assert "epoch" not in row


def test_a_metric_that_falls_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    directory = make_study(
        tmp_path / "s", [FakeTrial(curve=[0.2, 0.8, 0.6])], metric="val_loss,seconds", direction="minimize"
    )

    (row,) = load_trial_rows(load_study(directory))

    assert row["kept_at_epoch"] == 2


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_epochs_without_a_finite_value_are_never_the_best(tmp_path: Path, broken: float) -> None:
    study = load_study(make_study(tmp_path / "s", [FakeTrial(curve=[broken, 0.4, broken], outcome="failed")]))

    (row,) = load_trial_rows(study)

    assert (row["kept_at_epoch"], row["val_accuracy"], row["epochs"]) == (2, 0.4, 3)


def test_values_in_scientific_notation_are_read_whole(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", [FakeTrial(curve=[9e-05, 1e-05])]))

    (row,) = load_trial_rows(study)

    assert (row["kept_at_epoch"], row["val_accuracy"]) == (1, 9e-05)


def test_every_end_of_a_trial_has_its_own_state(tmp_path: Path) -> None:
    outcomes = ["complete", "pruned", "failed", "infeasible", None]
    trials = [
        FakeTrial(outcome=outcome, curve=[0.5] if outcome != "infeasible" else []) for outcome in outcomes
    ]
    study = load_study(make_study(tmp_path / "s", trials))

    rows = load_trial_rows(study)

    assert [row["state"] for row in rows] == [*outcomes[:4], "running"]
    assert rows[4]["seconds"] == pytest.approx(1.0)


def test_a_study_that_was_copied_elsewhere_reads_its_own_database(tmp_path: Path) -> None:
    original = make_study(tmp_path / "s", [FakeTrial()])
    copy = tmp_path / "the # copy%20é"
    shutil.move(original, copy)

    rows = load_trial_rows(load_study(copy))

    assert len(rows) == 1


def test_reading_does_not_write(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial()])
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    load_trial_rows(load_study(directory))

    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_frames_have_one_row_a_trial_and_one_row_an_epoch(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", [FakeTrial(curve=[0.1, NAN]), FakeTrial(curve=[0.3])]))

    trials, epochs = load_trials(study), load_epochs(study)

    assert list(trials["trial"]) == [0, 1]
    assert list(trials.columns)[: len(TRIAL_COLUMNS)] == list(TRIAL_COLUMNS)
    assert list(zip(epochs["trial"], epochs["epoch"], strict=True)) == [(0, 1), (0, 2), (1, 1)]
    assert epochs["val_accuracy"].isna().tolist() == [False, True, False]


def test_a_study_without_trials_gives_empty_frames(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", []))

    assert load_trial_rows(study) == []
    assert list(load_trials(study).columns) == list(TRIAL_COLUMNS)
    assert len(load_epochs(study)) == 0


def test_a_replayed_epoch_counts_once(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.1, 0.2], outcome=None)])
    record_epochs(directory, 0, [0.2, 0.3], first_epoch=2)

    (row,) = load_trial_rows(load_study(directory))

    assert (row["epochs"], row["val_accuracy"]) == (3, 0.3)


def test_a_study_is_found_by_name_and_by_directory(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "flowers", [])

    assert find_study("flowers", runs_dir=tmp_path) == find_study(directory) == directory.resolve()


def test_an_unknown_study_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    make_study(tmp_path / "flowers", [])

    with pytest.raises(ValueError, match=r"no study 'flower': did you mean flowers\?"):
        find_study("flower", runs_dir=tmp_path)


def test_a_damaged_study_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")

    with pytest.raises(ValueError, match=r"study\.json cannot be read"):
        load_study(tmp_path)


def test_a_study_whose_database_is_missing_says_so(tmp_path: Path) -> None:
    directory = make_study(tmp_path / "s", [])
    (directory / "study.db").unlink()

    with pytest.raises(ValueError, match="has no database yet"):
        load_trial_rows(load_study(directory))
    assert not (directory / "study.db").exists()


def test_status_counts_trials_and_names_the_best_and_the_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [
        FakeTrial(curve=[0.5]),
        FakeTrial(curve=[0.7], outcome="pruned"),
        FakeTrial(curve=[0.6], outcome=None),
    ]
    study = load_study(make_study(tmp_path / "s", trials, status="running"))

    status = load_status(study, now=STARTED + 5000.0)
    print_status(status)

    assert status["trials"] == {"complete": 1, "pruned": 1, "running": 1}
    assert status["best"] == {"trial": 1, "value": 0.7, "epoch": 1}
    assert [row["trial"] for row in status["running"]] == [2]
    printed = capsys.readouterr().out
    assert "2 of 12 trials ended" in printed
    assert "run the same command again" in printed
    assert json.loads(json.dumps(status)) == status
