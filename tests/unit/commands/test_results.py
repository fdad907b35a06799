"""The results of a study: whichever run finds that one is missing, or stale, makes it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from analysis.answer.record import Answer
from analysis.report import is_current
from cluster.search.trial_status import TrialStatus
from contract.answer import Combination
from contract.messages import EpochDecision, Reason, StudySettings
from contract.model_layout import ModelPaths
from contract.study_layout import StudyPaths
from tests.study_factory import FakeTrial, add_trials, make_study
from wiring import results
from wiring.answers import AnswerMaker, Wishes
from wiring.results import Results, how_long_a_trial_takes, why_nothing_completed

Export = Callable[..., None]


CLASSES = ("daisy", "rose", "tulip")


class Finished:
    """A finished study, whose program, report page and MLflow are stood in for by short ones."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = make_study(directory, [])
        self.has_complete = True
        self.exports: list[int] = []
        self.pages = 0
        self.tracked: list[str] = []
        self.export: Export = self._export
        self.add(0.5)
        self.add(0.9)
        monkeypatch.setattr(AnswerMaker, "_make_program", self._make_program)
        monkeypatch.setattr("analysis.report.draft_report", lambda *_, **__: None)
        monkeypatch.setattr("analysis.report._all_sections", self._all_sections)
        monkeypatch.setattr(results, "log_model", self._log_model)
        monkeypatch.setattr(results, "sync", lambda *_: self.tracked.append("trials only"))
        monkeypatch.setattr(results, "find_leaderboard", lambda *_: "http://127.0.0.1:5000")

    def add(self, accuracy: float) -> None:
        add_trials(self.directory, [FakeTrial(curve=[accuracy])])
        for folder in (self.directory / "trials").iterdir():
            (folder / "model.pt").touch()

    def make(self) -> bool:
        settings = StudySettings(
            study_directory=str(self.directory),
            classes=CLASSES,
            weights="random",
            image_size=32,
            seed=0,
            metric="val_accuracy",
            maximize=True,
            cache_directory=str(self.directory / "cache"),
            cache_gigabytes=0.0,
            num_trials=2,
            threads=1,
        )
        trials: dict[int, dict[str, Any]] = {number: {"backbone": "lite0"} for number in range(5)}
        trials[5] = {"max_epochs": 3}  # its space raised
        wishes = Wishes(rule="single")
        maker = AnswerMaker(settings=settings, trials=trials, wishes=wishes) if self.has_complete else None
        console = Console(file=io.StringIO())
        return Results(directory=self.directory, maker=maker, console=console).make()

    def card(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "model" / "export.json").read_text())
        return found

    def _export(
        self, combination: Combination, *_: Any, target: ModelPaths, about: Mapping[str, Any], **__: Any
    ) -> None:
        self.exports.append(combination.members[0].ref.number)
        target.program.write_bytes(b"program")
        target.card.write_text(
            json.dumps({"classes": list(CLASSES), "image_size": 32, "fit": "crop", **about})
        )
        target.golden.mkdir()
        for path in (target.golden_facts, target.labels, target.example):
            path.touch()

    def _make_program(self, answer: Answer) -> Any:
        return SimpleNamespace(
            write=partial(self._write, answer.combination), write_card=lambda *_, **__: None
        )

    def _write(self, combination: Combination, _: StudySettings, **given: Any) -> None:
        self.export(combination, **given)

    def _all_sections(self, *_: Any) -> list[Any]:
        self.pages += 1
        return []

    def _log_model(self, _: Path, export: Path, __: str | None) -> str:
        self.tracked.append(export.name)
        return "models:/m-1"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    return Finished(tmp_path / "s", monkeypatch)


def test_what_is_there_is_not_made_again(study: Finished) -> None:
    assert study.make()
    assert study.make()

    assert (study.exports, study.pages, study.tracked) == ([1], 1, ["model", "model"])


@pytest.mark.parametrize(
    "missing", ["model", "model/classifier.pt2", "model/export.json", "model/golden", "model/labels.txt"]
)
def test_a_model_that_is_deleted_or_not_whole_is_made_again(study: Finished, missing: str) -> None:
    study.make()
    path = study.directory / missing
    path.rename(study.directory.parent / "gone")

    assert study.make()

    assert study.exports == [1, 1]
    model = ModelPaths(study.directory / "model")
    assert model.is_whole
    assert model.find_changed() == []


def test_a_report_that_is_deleted_or_cut_short_is_made_again(study: Finished) -> None:
    study.make()
    page = study.directory / "report.html"
    page.unlink()
    study.make()
    page.write_text(page.read_text()[:50])
    study.make()

    assert study.pages == 3
    assert is_current(study.directory)


def test_a_study_that_was_extended_gets_a_new_report_and_the_new_best_trials_model(study: Finished) -> None:
    study.make()
    study.add(0.95)
    assert not is_current(study.directory)

    assert study.make()

    assert (study.exports, study.pages) == ([1, 2], 2)
    assert study.card()["trial"] == 2
    assert is_current(study.directory)


@pytest.mark.parametrize(
    "error", [RuntimeError("cannot export\nlong graph"), OSError(28, "No space left on device")]
)
def test_an_export_that_fails_is_one_line_and_everything_else_is_made(
    study: Finished, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, target: ModelPaths, **__: Any) -> None:
        target.program.write_bytes(b"ha")
        raise error

    study.export = fail
    assert not study.make()

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tune.py: the answer could not be made: ")
    assert "run the same command to try again" in line
    assert (study.pages, study.tracked) == (1, ["trials only"])
    assert not list(study.directory.glob("*model*"))

    study.export = study._export
    assert study.make()
    assert study.card()["trial"] == 1
    assert is_current(study.directory)


def test_a_full_disk_under_the_report_leaves_the_model_and_the_next_run_writes_it(
    study: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Path, **__: Any) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_report", fail)
        assert not study.make()
    assert "the report could not be written: [Errno 28] No space left" in capsys.readouterr().err
    assert study.tracked == ["model"]

    assert study.make()
    assert study.exports == [1]
    assert is_current(study.directory)


def test_an_interrupted_export_leaves_the_whole_model_from_before(study: Finished) -> None:
    study.make()

    def interrupt(*_: Any, target: ModelPaths, **__: Any) -> None:
        raise KeyboardInterrupt

    study.add(0.95)
    study.export = interrupt
    with pytest.raises(KeyboardInterrupt):
        study.make()

    assert study.card()["trial"] == 1
    study.export = study._export
    assert study.make()
    assert study.card()["trial"] == 2


def test_what_a_killed_export_left_behind_goes_away(study: Finished) -> None:
    for name in (".model.0123456789abcdef.part", ".model.fedcba9876543210.part"):
        (study.directory / name).mkdir()
        (study.directory / name / "classifier.pt2").write_bytes(b"ha")

    assert study.make()

    assert list(study.directory.glob("*model*")) == [study.directory / "model"]


def test_mlflow_that_fails_is_said_and_the_results_stand(
    study: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> str:
        raise ConnectionError("nobody answers there")

    monkeypatch.setattr(results, "log_model", fail)

    assert study.make()

    assert "MLflow could not be written: nobody answers there" in capsys.readouterr().err


def test_without_a_complete_trial_there_is_a_report_and_no_model(study: Finished) -> None:
    study.has_complete = False

    assert study.make()

    assert not (study.directory / "model").exists()
    assert (study.exports, study.pages, study.tracked) == ([], 1, ["trials only"])


def test_an_answer_of_other_wishes_stays_while_the_candidates_are_the_same(study: Finished) -> None:
    study.make()
    path = StudyPaths(study.directory).answer
    wished = json.loads(path.read_text())
    wished["facts"]["wishes"]["at"] = "precision=0.9"
    path.write_text(json.dumps(wished))

    study.make()
    assert study.exports == [1]

    study.add(0.3)
    study.make()
    assert study.exports == [1, 1]


def test_a_search_without_a_result_says_how_its_trials_ended_and_the_commonest_reason() -> None:
    failed = {"reason": Reason.BUG, "traceback": "Traceback\nKeyError: 'x'"}
    history = [SimpleNamespace(attrs=attrs) for attrs in (failed, {"reason": "too large"}, failed, {})]
    study = SimpleNamespace(records=SimpleNamespace(load=lambda: history))
    search = SimpleNamespace(counts=lambda: {"complete": 0, "failed": 2, "infeasible": 1, "running": 0})

    assert why_nothing_completed(cast(Any, study), cast(Any, search)) == (
        "no trial completed (2 failed, 1 infeasible); most often: bug: KeyError: 'x'"
    )


def test_a_search_that_was_too_short_says_what_an_epoch_and_a_whole_trial_take() -> None:
    def status(number: int, *, seconds: float, epochs: int) -> TrialStatus:
        decisions = dict.fromkeys(range(1, epochs + 1), EpochDecision.CONTINUE)
        config = {"max_epochs": 10}
        return TrialStatus(number=number, config=config, seconds=seconds, decisions=decisions)

    trials = {0: status(0, seconds=24.0, epochs=2), 1: status(1, seconds=12.0, epochs=1)}

    def tell(found: dict[int, TrialStatus]) -> str:
        return how_long_a_trial_takes(cast(Any, SimpleNamespace(trials=found)))

    assert tell(trials) == "an epoch takes about 12.0 s, a whole trial about 120 s"
    assert tell({2: status(2, seconds=0.0, epochs=0)}) == "not even one epoch ended"
