"""The exit code of tune.py: 2 only before anything ran, 1 for whatever fails later, 130 for Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import SQLAlchemyError

import tune
from cluster.ray_tune.run import RunEnding
from cluster.study.records import DatabaseGone
from contract.study_layout import RunOutcome, StudyPaths
from wiring import study_run

CONFIG = SimpleNamespace(name="s", patience=3, time_budget="40s", backbones=())
PLAN = cast(Any, SimpleNamespace(config=CONFIG, stopping_line="early stopping: off", resources=None))
MANIFEST = SimpleNamespace(write_csv=lambda _: None, indices=lambda _: [0])


class FakeStudy:
    """An opened study that notes what is written of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = StudyPaths(directory)
        self.info = {"data": {"num_test": 1}}
        self.ended: list[str] = []
        self.closed = False

    def end(self, how: RunOutcome) -> None:
        self.ended.append(how.study_status)

    def note_finished(self) -> None:
        self.ended.append("noted")

    def close(self) -> None:
        self.closed = True


class Command:
    """tune.py with a search that ends as the test wants."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.study = FakeStudy(tmp_path)
        self.finished = False
        self.best: tuple[int, float] | None = (0, 0.5)
        self.results = True
        self.cleaned = 0
        search = SimpleNamespace(
            finished=False,
            out_of_gain=False,
            used_up=False,
            best_complete=lambda: self.best,
            trials={},
        )
        self.search = search
        replaced: dict[str, Any] = {
            "parse_flags": lambda _: SimpleNamespace(dry_run=False, address=None, gpus_per_trial=0),
            "check_job_folders": lambda _: None,
            "follow_environment": lambda config, _: (config, []),
            "fetch_all_weights": lambda plan: plan,
            "check_workers": lambda *_, **__: None,
            "make_plan": lambda _: PLAN,
            "start_ray_early": lambda _: None,
            "read_images": lambda _: (MANIFEST, SimpleNamespace(synthetic=None)),
            "study_facts": lambda *_: {},
            "open_study": lambda *_, **__: self.study,
            "make_search": lambda *_: search,
            "describe_probing": lambda *_: "",
            "Tracker": lambda _: SimpleNamespace(
                begin_to_finish=lambda: None, finish=lambda timeout: None, close=lambda: None
            ),
            "Cleaner": lambda *_: SimpleNamespace(clean_all=self._clean),
            "print_leaderboard": lambda _: None,
            "make_answer_maker": lambda *_: "maker",
            "say_next": lambda *_, **__: "next",
            "Results": lambda maker, **_: SimpleNamespace(
                begin=lambda: None, make=lambda: self.results, maker=maker
            ),
            "why_nothing_completed": lambda *_: "no trial completed (3 failed)",
            "plan_time": lambda plan: (plan, []),
            "remember_run": lambda *_, **__: None,
            "how_long_a_trial_takes": lambda _: "an epoch takes about 12.0 s, a whole trial about 120 s",
        }
        for name, value in replaced.items():
            monkeypatch.setattr(tune if hasattr(tune, name) else study_run, name, value)
        self._patch = monkeypatch

    def run(self, ending: str | Exception | None, reason: str | None = None) -> int:
        def search(*_: Any, **__: Any) -> RunEnding:
            if isinstance(ending, BaseException):
                raise ending
            return RunEnding(how=RunOutcome(ending), reason=reason)

        self._patch.setattr(study_run, "run_leases", search)
        return tune.main([])

    def _clean(self) -> None:
        self.cleaned += 1


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("ending", "code", "status"),
    [
        ("finished", 0, "finished"),
        ("no gain", 0, "finished"),
        ("time budget", 0, "stopped"),
        ("interrupted", 130, "stopped"),
        ("failed", 1, "failed"),
    ],
)
def test_each_ending_has_its_exit_code_and_status(
    command: Command, ending: str, code: int, status: str
) -> None:
    assert command.run(ending, "the database is gone") == code
    assert command.study.ended == [status]
    assert command.study.closed


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left"), DatabaseGone("gone\nwhere"), RuntimeError("x"), SQLAlchemyError("x")],
)
def test_what_fails_after_the_start_is_one_line_and_code_1(
    command: Command, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(error) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_flags_that_do_not_fit_the_cluster_are_code_2(command: Command) -> None:
    assert command.run(ValueError("no Ray cluster answers at --address ray://x")) == 2


def test_a_driver_that_lost_its_study_says_so_and_writes_nothing(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run("lost", "another process has taken this study over; it goes on there") == 1
    assert (command.study.ended, command.cleaned) == ([], 0)
    assert capsys.readouterr().err == (
        "tune.py: stopped: another process has taken this study over; it goes on there\n"
    )


def test_a_study_without_a_complete_trial_is_code_1_and_the_reason(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command.best = None
    assert command.run("finished") == 1
    assert "no trial completed (3 failed)" in capsys.readouterr().err

    command.search.finished = True  # the same line again
    assert command.run(None) == 1
    assert "no trial completed (3 failed)" in capsys.readouterr().err


def test_a_time_budget_without_a_complete_trial_is_code_1_and_how_long_one_takes(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command.best = None
    assert command.run("time budget") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "within --time-budget 40s: an epoch takes about 12.0 s, a whole trial about 120 s" in line


def test_results_that_could_not_be_made_are_code_1(command: Command) -> None:
    command.results = False
    assert command.run("finished") == 1


def test_a_finished_study_is_not_begun_again_but_its_results_are_looked_after(command: Command) -> None:
    command.search.finished = True
    command.results = False
    assert command.run(None) == 1
    assert command.study.ended == ["noted"]
    assert command.cleaned == 1
