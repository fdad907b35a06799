"""finalize.py refuses what does not fit in one line and with exit code 2, before anything is made."""

from __future__ import annotations

import codecs
import io
import json
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

import finalize
from cluster.search.finals import Chosen
from cluster.study.flags import parse_finalize_flags
from cluster.study.lock import acquire_lock
from contract.study_layout import StudyPaths
from tests.integration.finals_driver import make_searched_study
from tests.other_user import STRANGER, call_as, needs_root, open_way
from tests.study_factory import FakeTrial, make_study

MADE_THEN = Path(__file__).parents[2] / "data" / "study_086efa2"


def edit_facts(study: Path, change: Mapping[str, Any]) -> None:
    path = StudyPaths(study).facts
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, **change}), encoding="utf-8")


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command ends with."""
    assert finalize.main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("finalize.py: ") and told.count("\n") == 1, told
    return told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rule", "ensembl"], "got 'ensembl'; did you mean ensemble"),
        (["--rule", "x"], "--rule must be one of auto, single"),
        (["--folds", "1"], "--folds must be 2 to 20, got 1"),
        (["--folds", "21"], "--folds must be 2 to 20, got 21"),
        (["--folds", "-3"], "--folds must be 2 to 20"),
        (["--tta", "3"], "--tta must be 1"),
        (["--seeds", "-1"], "--seeds must not be negative"),
        (["--seeds", "two"], "--seeds"),
        (["--rule", "soup", "--refit"], "give one of them"),
        (["--tets"], "did you mean --test"),
        (["--export", "onx"], "--export must be some of onnx, timm, int8, got 'onx'; did you mean onnx"),
        (["--export", "onnx", "torchscript"], "got 'torchscript'"),
        (["--export"], "expected at least one argument"),
        (["other"], "other"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_finalize_flags(["study", *flags])

    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("at", ["foo", "precision=2", "precision=", "accuracy=0.9", "precision=nan"])
def test_an_operating_point_that_is_none_is_refused(at: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--at" in refuse(capsys, "study", "--at", at)


def test_a_study_that_is_not_there_is_answered_with_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "flowers", [])

    told = refuse(capsys, "flowes", "--runs-dir", str(tmp_path))

    assert "no study 'flowes': did you mean flowers" in told


@pytest.mark.parametrize("trials", [[], [FakeTrial(outcome="pruned")], [FakeTrial(outcome=None)]])
def test_a_study_without_a_complete_trial_says_so(
    trials: list[FakeTrial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "s", trials)

    assert "no trial of s has completed: run its search" in refuse(capsys, str(study))


def test_a_study_that_runs_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path / "s", [FakeTrial()])
    lock = acquire_lock(study / "lock")
    try:
        told = refuse(capsys, str(study))
    finally:
        lock.release()

    assert "another process" in told or "is being" in told or "in use" in told


@needs_root
def test_a_study_that_is_another_users_is_named_and_left_alone(tmp_path: Path) -> None:
    study = make_study(open_way(tmp_path) / "s", [FakeTrial()])
    before = sorted(path.name for path in study.iterdir())
    assert codecs.lookup("ascii")  # now, as the other user may not read Python's own files

    def run() -> str:
        with redirect_stderr(io.StringIO()) as told:
            return f"{finalize.main([str(study)])} {told.getvalue()}"

    told = call_as(STRANGER, run)

    assert (
        told == f"2 finalize.py: {study} cannot be written (Permission denied): work on a copy of the study\n"
    )
    assert sorted(path.name for path in study.iterdir()) == before


@pytest.mark.parametrize("damage", ["{", "[]", '{"study": "s"}'])
def test_a_damaged_study_file_is_named(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "s", [FakeTrial()])
    (study / "study.json").write_text(damage)

    assert "study.json" in refuse(capsys, str(study))


def test_a_study_of_an_earlier_version_is_refused_in_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = shutil.copytree(MADE_THEN, tmp_path / "old086")

    told = refuse(capsys, str(study))

    assert "086efa2" in told and "epochs" in told


def test_a_study_whose_images_are_gone_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "s", [FakeTrial()], backbone_weights={}, weights="random")

    told = refuse(capsys, str(study))

    assert "38 of 38 images of the study are not there any more" in told and "--data" in told


def test_an_empty_study_that_was_only_opened_has_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_searched_study(tmp_path)

    assert "has completed" in refuse(capsys, str(study), "--test")


def test_folds_are_refused_for_a_trial_whose_generator_has_seen_what_they_hold_out() -> None:
    config = {"backbone": "lite0", "unfreeze_depth": 0}
    plain, synthetic = (
        Chosen(trial=number, config=config | {"synthetic_share": share}, kept_epoch=2)
        for number, share in ((3, 0.0), (4, 0.5))
    )

    assert finalize.find_frozen([plain]) == [plain]
    with pytest.raises(ValueError, match="--folds: trial 4 trains on synthetic images"):
        finalize.find_frozen([plain, synthetic])
