"""The best of each group, seeds averaged; what changed between two studies; frames for notebooks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from analysis import load_epochs, load_trials
from analysis.__main__ import main
from analysis.compare import compare_studies, print_comparison
from analysis.groups import group_leaderboard, print_groups
from analysis.reading import load_study
from tests.study_factory import FakeTrial, make_study


def backbone(name: str, *curve: float) -> FakeTrial:
    return FakeTrial(curve=curve, config={"backbone": name})


def test_each_backbone_shows_its_best_trial(tmp_path: Path) -> None:
    trials = [backbone("lite0", 0.5), backbone("lite1", 0.7), backbone("lite0", 0.6)]
    study = load_study(make_study(tmp_path / "s", trials))

    rows = group_leaderboard([study], by="backbone")

    assert [(row["backbone"], row["trial"], row["num_trials"]) for row in rows] == [
        ("lite1", 1, 1),
        ("lite0", 2, 2),
    ]


def test_studies_that_differ_in_their_seed_are_averaged_with_their_spread(tmp_path: Path) -> None:
    studies = [
        load_study(make_study(tmp_path / f"s{seed}", [backbone("lite0", value)], seed=seed))
        for seed, value in enumerate((0.5, 0.7))
    ]

    (row,) = group_leaderboard(studies, by="backbone")

    assert row["num_seeds"] == 2
    assert row["val_accuracy"] == pytest.approx(0.6)
    assert row["val_accuracy_sd"] == pytest.approx(0.1414, abs=1e-3)
    console = Console(width=120, file=io.StringIO(), color_system=None)
    print_groups(studies, by="backbone", console=console)
    assert "0.6000 ± 0.1414" in console.file.getvalue()  # type: ignore[attr-defined]


def test_studies_of_other_data_stay_apart(tmp_path: Path) -> None:
    first = load_study(make_study(tmp_path / "a", [backbone("lite0", 0.5)]))
    other = {"source": "/x", "contents": "c2", "fingerprint": "f2", "classes": ["a", "b", "c"]}
    second = load_study(make_study(tmp_path / "b", [backbone("lite0", 0.7)], data=other))

    assert len(group_leaderboard([first, second], by="backbone")) == 2


def test_grouping_by_an_unknown_name_says_the_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial()])

    code = main(["leaderboard", str(directory), "--by", "nope"])

    assert code == 1
    assert "backbone" in capsys.readouterr().err


def test_the_leaderboard_ends_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(curve=[0.9]), FakeTrial(curve=[0.2])])

    main(["leaderboard", str(directory)])

    assert "Trial 0 is better than trial 1" in " ".join(capsys.readouterr().out.split())


def test_the_html_leaderboard_is_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_study(tmp_path / "s", [FakeTrial(), FakeTrial(curve=[], outcome="infeasible")])

    main(["leaderboard", str(directory), "--html"])

    page = capsys.readouterr().out
    assert page.startswith("<!DOCTYPE html>")
    assert 'class="board"' in page


def test_comparison_names_what_changed_and_judges(tmp_path: Path) -> None:
    first = load_study(make_study(tmp_path / "a", [FakeTrial(curve=[0.9])], image_size=128))
    second = load_study(make_study(tmp_path / "b", [FakeTrial(curve=[0.3])], image_size=96))

    comparison = compare_studies(first, second)

    assert comparison["changes"]["image_size"] == [128, 96]
    assert "trial 0 of a is better" in comparison["verdict"]
    json.dumps(comparison)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    print_comparison(comparison, console=console)
    assert "image_size" in console.file.getvalue()  # type: ignore[attr-defined]


def test_studies_of_different_data_are_not_judged(tmp_path: Path) -> None:
    first = load_study(make_study(tmp_path / "a", [FakeTrial()]))
    second = load_study(make_study(tmp_path / "b", [], data={"source": "/x", "contents": "c2"}))

    assert "different data" in compare_studies(first, second)["verdict"]


@pytest.mark.parametrize("studies", [["a"], ["a", "a", "a"]])
def test_comparison_takes_two_studies(
    tmp_path: Path, studies: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "a", [])

    assert main(["compare", *studies, "--runs-dir", str(tmp_path)]) == 1
    assert "two studies" in capsys.readouterr().err


@pytest.mark.slow  # pandas takes a second or more to import
def test_frames_for_notebooks_document_their_columns(tmp_path: Path) -> None:
    make_study(tmp_path / "a", [FakeTrial(curve=[0.2, 0.4])])
    make_study(tmp_path / "b", [FakeTrial()])

    trials, epochs = load_trials("a", "b", runs_dir=tmp_path), load_epochs("a", runs_dir=tmp_path)

    assert trials["study"].tolist() == ["a", "b"]
    assert epochs["val_accuracy"].tolist() == [0.2, 0.4]
    assert "[s]" in trials.attrs["columns"]["seconds"]
    assert set(epochs.attrs["columns"]) == set(epochs.columns)
