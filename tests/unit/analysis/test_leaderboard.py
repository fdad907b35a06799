"""The leaderboard: its order, its table, its JSON and CSV, its exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from analysis.__main__ import main
from analysis.leaderboard import load_leaderboard, print_leaderboard
from analysis.reading import load_study
from tests.study_factory import FakeTrial, make_study

NAN = float("nan")


def show(directory: Path, *, width: int = 80, top: int | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_leaderboard(directory, console=console, top=top)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def mixed_trials() -> list[FakeTrial]:
    return [
        FakeTrial(curve=[0.3, 0.5]),
        FakeTrial(
            curve=[0.9, NAN], outcome="failed", attributes={"reason": "diverged", "traceback": "Diverged"}
        ),
        FakeTrial(curve=[0.7], outcome="pruned"),
        FakeTrial(curve=[0.8], attributes={"recipe": "bit"}),
        FakeTrial(curve=[], outcome="infeasible"),
        FakeTrial(curve=[0.6], outcome=None),
    ]


def test_best_trials_come_first_and_failed_ones_last(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", mixed_trials()))

    rows = load_leaderboard([study])

    assert [row["trial"] for row in rows] == [3, 2, 5, 0, 1, 4]


def test_several_metrics_have_a_pareto_front(tmp_path: Path) -> None:
    both = {"metrics": ["val_accuracy", "val_loss"], "directions": ["maximize", "minimize"]}
    trials = [FakeTrial(curve=[0.9]), FakeTrial(curve=[0.5]), FakeTrial(curve=[0.95], outcome="pruned")]

    several = show(make_study(tmp_path / "s", trials, **both))
    one = show(make_study(tmp_path / "t", trials))

    assert "Pareto front (val_accuracy, val_loss): 0 (0.9000" in several
    assert "Pareto" not in one


def test_a_metric_to_minimize_ranks_the_lowest_first(tmp_path: Path) -> None:
    trials = [FakeTrial(curve=[0.3]), FakeTrial(curve=[0.9])]
    study = load_study(make_study(tmp_path / "s", trials, metric="val_loss", direction="minimize"))

    assert [row["trial"] for row in load_leaderboard([study])] == [1, 0]


def test_the_table_shows_what_varies_and_says_what_does_not(tmp_path: Path) -> None:
    printed = show(make_study(tmp_path / "s", mixed_trials()))

    header = next(line for line in printed.splitlines() if line.startswith("trial"))
    assert "lr" in header
    assert "backbone" not in header
    assert "backbone lite0" in printed
    assert "failed: diverged" in printed
    assert "(recipe)" in printed


def test_the_table_fits_into_80_columns_however_much_varies(tmp_path: Path) -> None:
    varying = ("dropout", "weight_decay", "label_smoothing", "momentum", "mixup_alpha", "warmup_epochs")
    backbones = ("lite0", "inception_resnet_v2", "bit_r152x2")
    trials = [
        FakeTrial(config={"backbone": backbone, "batch_size": 8 + i} | dict.fromkeys(varying, i / 7))
        for i, backbone in enumerate(backbones)
    ]

    printed = show(make_study(tmp_path / "s", trials))

    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "inception_resnet_v2" in printed
    assert "also varies: " in printed


def test_trials_beyond_the_top_are_counted(tmp_path: Path) -> None:
    printed = show(make_study(tmp_path / "s", [FakeTrial()] * 5), top=2)

    assert "3 more trials" in printed


def test_a_study_without_trials_has_an_empty_leaderboard(tmp_path: Path) -> None:
    assert "0 trials" in show(make_study(tmp_path / "s", []))


def test_markup_in_a_name_is_printed_as_it_is(tmp_path: Path) -> None:
    assert "[red]blumen[/red]é".replace("/", "_") in show(
        make_study(tmp_path / "[red]blumen[_red]é", [FakeTrial()])
    )


def test_json_is_one_list_with_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path / "s", mixed_trials())

    code = main(["leaderboard", "s", "--runs-dir", str(tmp_path), "--json"])

    rows = json.loads(capsys.readouterr().out)
    assert code == 0
    promised = {
        "trial",
        "state",
        "val_accuracy",
        "val_loss",
        "epochs",
        "seconds",
        "learning_rate",
        "backbone",
    }
    assert len(rows) == 6
    assert all(promised <= row.keys() for row in rows)
    assert rows[5]["val_accuracy"] is None


def test_csv_has_a_header_and_one_line_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path / "s", mixed_trials())

    main(["leaderboard", "s", "--runs-dir", str(tmp_path), "--csv", "--top", "2"])

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["trial"] for row in rows] == ["3", "2"]
    assert rows[0]["unfreeze_depth"] == "1"


def test_several_studies_share_one_table(tmp_path: Path) -> None:
    values = {"a": 0.4, "b": 0.6}
    studies = [load_study(make_study(tmp_path / name, [FakeTrial(curve=[values[name]])])) for name in values]

    rows = load_leaderboard(studies)

    assert [row["study"] for row in rows] == ["b", "a"]


def test_studies_with_different_metrics_are_not_ranked_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "a", [])
    make_study(tmp_path / "b", [], metric="val_loss", direction="minimize")

    code = main(["leaderboard", "a", "b", "--runs-dir", str(tmp_path)])

    assert code == 1
    assert "different metrics" in capsys.readouterr().err


def test_an_unknown_study_ends_with_code_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "flowers", [])

    code = main(["status", "flwers", "--runs-dir", str(tmp_path)])

    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "did you mean flowers?" in error


@pytest.mark.parametrize("flags", [["--top", "0"], ["--top", "x"], ["--nope"]])
def test_wrong_flags_end_with_code_2(tmp_path: Path, flags: list[str]) -> None:
    make_study(tmp_path / "s", [])

    with pytest.raises(SystemExit) as stopped:
        main(["leaderboard", "s", "--runs-dir", str(tmp_path), *flags])

    assert stopped.value.code == 2


def test_the_leaderboard_loads_no_heavy_library() -> None:
    heavy = ("torch", "mlflow", "pandas", "optuna", "ray", "numpy")
    script = "import sys, analysis.__main__, analysis.leaderboard; "
    script += f"print([name for name in {heavy} if name in sys.modules])"

    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "[]"


def test_of_equal_trials_the_one_with_the_lowest_loss_comes_first_then_the_cheapest(tmp_path: Path) -> None:
    equal = [
        FakeTrial(curve=[0.9], metrics={"val_loss": [loss], "trainable_parameters": [number]})
        for loss, number in ((0.5, 5e6), (0.5, 7e3), (0.4, 6e4))
    ]
    directory = make_study(tmp_path / "s", equal)

    rows = load_leaderboard([load_study(directory)])

    assert [row["trial"] for row in rows] == [2, 1, 0]
