"""What a study's candidates hold on disk is shown, and freed but for the answer's members."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.answer.cleaning import clean_study
from analysis.answer.record import Answer, save_answer
from analysis.disk import measure_files
from analysis.reading import StudyInfo, load_study
from contract.answer import Combination, MemberRef
from tests.study_factory import FakeTrial, make_study


@pytest.fixture
def study(tmp_path: Path) -> StudyInfo:
    study = load_study(make_study(tmp_path / "s", [FakeTrial(), FakeTrial()]))
    for paths in (study.paths.trial(0), study.paths.trial(1), study.paths.final(0)):
        paths.directory.mkdir(parents=True, exist_ok=True)
        for path in (paths.weights, paths.predictions):
            path.write_bytes(b"x" * 1000)
    return study


def answer_of(ref: MemberRef) -> Answer:
    return Answer(
        rule="single",
        why="",
        combination=Combination.single(ref),
        made_of="",
        images=10,
        groups=10,
        metric="val_accuracy",
        scores={},
    )


def test_the_members_of_the_answer_keep_their_weights(study: StudyInfo) -> None:
    save_answer(study.paths, answer_of(MemberRef("final", 0)))

    assert measure_files(study.paths)["weights"] == 3000
    assert clean_study(study) == 2000

    assert study.paths.final(0).weights.exists()
    assert not study.paths.trial(0).weights.exists()
    assert measure_files(study.paths)["predictions"] == 3000


def test_predictions_go_only_if_that_is_asked_for(
    study: StudyInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clean", str(study.directory), "--predictions"]) == 0

    assert "MB freed" in capsys.readouterr().out
    assert measure_files(study.paths) == {"weights": 0, "predictions": 0, "checkpoints": 0}


def test_a_study_that_runs_is_not_touched(study: StudyInfo) -> None:
    study.paths.lock.write_text('{"token": "1"}', encoding="utf-8")

    with pytest.raises(ValueError, match="runs"):
        clean_study(study)

    assert measure_files(study.paths)["weights"] == 3000
