"""finalize.py as users run it: killed in every phase, asked twice, and on studies that lack things."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import finalize
from analysis.answer.cleaning import clean_study
from analysis.answer.record import Answer, load_answer
from analysis.reading import load_study
from analysis.readings import load_readings
from analysis.report import is_current
from contract.study_layout import StudyPaths
from tests.tiny_data import write_images
from wiring import results

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0
EARLY_AND_LATE = ("a final training", "export", "answer", "reading")
"""Phases in which it is killed without --full."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs directory of a search of three tiny trials."""
    folder = tmp_path_factory.mktemp("searched")
    write_images(folder / "images")
    search(folder, folder / "runs", trials=3)
    return folder / "runs"


def search(folder: Path, runs_dir: Path, *, trials: int) -> None:
    """Run tune.py to its end."""
    places = ("--runs-dir", str(runs_dir), "--cache-dir", str(folder / "cache"))
    what = ("--space", "demo", "--data", str(folder / "images"), "--study", "mine", "--image-size", "32")
    limits = ("--trials", str(trials), "--max-epochs", "2", "--scheduler", "none")
    words = [sys.executable, "tune.py", *what, *places, *limits]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def runs_dir(searched: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may change."""
    return shutil.copytree(searched, tmp_path / "runs")


@pytest.fixture
def study(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The study of the copy, for commands in this process that leave MLflow out, which takes seconds."""
    monkeypatch.setattr(results, "log_model", lambda *_: "models:/m-1")
    monkeypatch.setattr(results, "sync", lambda *_: None)
    monkeypatch.setattr(results, "find_leaderboard", lambda *_: "http://127.0.0.1:5000")
    threads = torch.get_num_threads()
    yield runs_dir / "mine"
    torch.set_num_threads(threads)


def answer_of(study: Path) -> Answer:
    answer = load_answer(StudyPaths(study))
    assert answer is not None
    return answer


def start(study: Path, *flags: str) -> subprocess.Popen[str]:
    words = [sys.executable, "finalize.py", str(study), *flags]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(study: Path, *flags: str) -> str:
    process = start(study, *flags)
    told = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, told
    return told


def kill_when(study: Path, flags: tuple[str, ...], reached: Callable[[], bool]) -> bool:
    """Kill the command and all of its Ray as soon as `reached`; false if it came to its end before."""
    process = start(study, *flags)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0]
            process.communicate()
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for one in family:
        if one.is_running():
            one.kill()
    return True


def count_rows(study: Path, sql: str) -> int:
    try:
        with sqlite3.connect(f"file:{study}/study.db?mode=ro", uri=True, timeout=30) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {sql}").fetchone()[0])
    except sqlite3.OperationalError:  # the table is yet to be made
        return 0


def outcome(study: Path) -> dict[str, Any]:
    """What must not depend on kills."""
    paths = StudyPaths(study)
    answer = answer_of(study)
    readings = load_readings(load_study(study))
    return {
        "combination": answer.combination,
        "scores": answer.scores,
        "rule": answer.rule,
        "digest": paths.model.digest(),
        "readings": [(one.reading, one.digest, one.images, one.record["scores"]) for one in readings],
        "trained": count_rows(study, "finals WHERE state = 'complete'"),
    }


def is_newer(path: Path) -> Callable[[], bool]:
    """Whether the file has been written anew, or is gone, since now."""

    def stamp() -> int | None:
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    before = stamp()
    return lambda: stamp() not in (before, None)


def forget_answer(study: Path) -> None:
    paths = StudyPaths(study)
    for path in (paths.answer, paths.report):
        path.unlink(missing_ok=True)
    shutil.rmtree(paths.model.directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_every_phase_and_continued_it_comes_to_the_same_answer(
    searched: Path, tmp_path: Path, full: bool
) -> None:
    calm, killed = (shutil.copytree(searched, tmp_path / name) / "mine" for name in ("calm", "killed"))
    flags = ("--tta", "2", "--seeds", "1", "--test")
    told = finish(calm, *flags)
    paths = StudyPaths(killed)
    forget_answer(killed)
    phases: dict[str, Callable[[], bool]] = {
        "views": lambda: bool(list(killed.glob("trials/*/predictions_flip.npz"))),
        "a final training": lambda: count_rows(killed, "finals WHERE epochs > 0") > 0,
        "the last of them": lambda: count_rows(killed, "finals WHERE state = 'complete'") > 0,
        "costs": lambda: paths.costs.exists(),
        "export": lambda: bool(list(killed.glob(".model*/*")) or list(killed.glob("*model*.part*"))),
        "program": lambda: paths.model.card.exists(),
        "answer": lambda: paths.answer.exists(),
        "reading": lambda: count_rows(killed, "readings") > 0,
        "report": lambda: paths.report.exists(),
        "MLflow": is_newer(killed.parent / "mlflow.db"),
    }
    if not full:  # a kill costs half a minute
        phases = {name: phases[name] for name in EARLY_AND_LATE}
    hit = {name: kill_when(killed, flags, reached) for name, reached in phases.items()}
    again = finish(killed, *flags)

    assert sum(hit.values()) >= (7 if full else 3), hit
    assert outcome(killed) == outcome(calm), (told, again)
    assert is_current(killed)
    assert len(outcome(killed)["readings"]) == 1
    assert not [path.name for path in killed.iterdir() if path.name.startswith(".model")]
    assert not list(killed.glob("finals/*/checkpoint*"))


@pytest.mark.timeout(600)
def test_killed_between_program_and_answer_it_is_the_same_model_with_one_reading(
    runs_dir: Path, full: bool
) -> None:
    if not full:
        pytest.skip("a minute; the kills in every phase cover it (--full)")
    study = runs_dir / "mine"
    before = outcome(study)
    paths = StudyPaths(study)
    forget_answer(study)

    kill_when(study, ("--test",), paths.model.card.exists)
    kill_when(study, ("--test",), lambda: count_rows(study, "readings") > 0)
    forget_answer(study)
    finish(study, "--test")

    after = outcome(study)
    assert len(after["readings"]) == 1
    assert {**after, "readings": []} == before
    assert "its reading stands" in finish(study, "--test")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupted_answer_is_made_by_the_next_run_and_kept_until_there_are_more_trials(
    searched: Path, runs_dir: Path
) -> None:
    study = runs_dir / "mine"
    before = answer_of(study)
    StudyPaths(study).costs.unlink()
    process = start(study, "--rule", "mean")
    while not StudyPaths(study).costs.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 130, told
    assert "run the same command to continue" in told and "Traceback" not in told
    assert answer_of(study) == before

    finish(study, "--rule", "mean")
    asked = answer_of(study)
    assert asked.rule == "mean"
    search(searched.parent, runs_dir, trials=3)
    assert answer_of(study) == asked
    search(searched.parent, runs_dir, trials=4)

    extended = answer_of(study)
    assert extended.made_of != asked.made_of
    assert extended.facts["wishes"]["rule"] == "auto"
    assert is_current(study)


def test_a_copied_study_keeps_its_answer_though_weights_were_freed(study: Path, tmp_path: Path) -> None:
    before = answer_of(study)
    clean_study(load_study(study))
    copy = tmp_path / "elsewhere"
    shutil.copytree(study, copy, copy_function=shutil.copyfile)  # with other times

    assert finalize.main([str(copy)]) == 0

    assert answer_of(copy) == before


def test_without_predictions_the_answer_stands_and_another_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answer_of(study)
    clean_study(load_study(study), predictions=True)

    assert finalize.main([str(study)]) == 0
    assert answer_of(study) == before
    assert finalize.main([str(study), "--rule", "single"]) == 2
    assert "they were freed" in capsys.readouterr().err
    assert answer_of(study) == before


def test_each_rule_makes_a_model_or_says_why_not_and_a_second_reading_is_marked(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test asks for rules and readings: each other model costs an export."""
    assert finalize.main([str(study), "--test", "--rule", "single"]) == 0
    assert answer_of(study).rule == "single"
    assert finalize.main([str(study), "--test", "--rule", "mean"]) == 0
    assert answer_of(study).rule == "mean"
    told = capsys.readouterr().out
    assert finalize.main([str(study), "--rule", "ensemble"]) == 0
    assert answer_of(study).rule == "ensemble"
    assert finalize.main([str(study), "--test", "--rule", "single"]) == 0

    before = answer_of(study)
    found = load_readings(load_study(study))
    assert [one.reading for one in found] == [1, 2]
    assert len({one.digest for one in found}) == 2
    assert "was read 1 time(s) before" in told and "reading number 2 of this split" in told
    assert "its reading stands" in capsys.readouterr().out

    assert finalize.main([str(study), "--rule", "soup"]) == 2

    assert "--rule soup: " in capsys.readouterr().err
    assert answer_of(study) == before


def test_a_study_without_a_test_split_is_answered_but_not_read(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = StudyPaths(study).facts
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["data"]["num_test"] = 0
    path.write_text(json.dumps(facts), encoding="utf-8")

    assert finalize.main([str(study)]) == 0
    assert finalize.main([str(study), "--test"]) == 2
    assert "--test: the data have no test split" in capsys.readouterr().err


def test_weights_that_are_torn_are_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = answer_of(study).refs[0].paths(StudyPaths(study))
    chosen.weights.write_bytes(chosen.weights.read_bytes()[:100])

    assert finalize.main([str(study), "--rule", "single"]) == 2

    told = capsys.readouterr().err
    assert "model.pt is missing or damaged" in told and told.count("\n") == 1


def test_an_answer_that_cannot_be_read_is_made_again(study: Path) -> None:
    paths, before = StudyPaths(study), answer_of(study)
    for damage in ("[]", '{"combination": 3}', "{"):
        paths.answer.write_text(damage, encoding="utf-8")
        assert load_answer(paths) is None

    assert finalize.main([str(study)]) == 0

    assert answer_of(study).combination == before.combination
