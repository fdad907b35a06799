"""Files of ended trials are removed at once, except those that the result needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.search.cleaning import FINALISTS, Cleaner
from cluster.search.search import Search
from contract.messages import Outcome
from contract.study_layout import StudyPaths
from tests.driven_search import Study, report, take

FILES = ("checkpoint.pt", "checkpoint.previous.pt", "model.pt", "predictions.npz")


def make_cleaner(tmp_path: Path, search: Search, **limits: Any) -> Cleaner:
    return Cleaner(StudyPaths(tmp_path), search, **limits)


def end(search: Search, tmp_path: Path, value: float, outcome: Outcome | None = Outcome.COMPLETE) -> int:
    lease = take(search)
    number = lease.trials[0].trial
    folder = tmp_path / "trials" / str(number)
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"x" * 100)
    search.receive([report(lease, 1, metrics={"val_accuracy": value}, outcome=outcome)])
    return number


def left(tmp_path: Path, number: int) -> set[str]:
    return {path.name for path in (tmp_path / "trials" / str(number)).iterdir()}


def with_weights(tmp_path: Path) -> set[int]:
    return {int(path.parent.name) for path in (tmp_path / "trials").glob("*/model.pt")}


def test_the_finalists_keep_their_weights_and_all_keep_their_predictions(
    study: Study, tmp_path: Path
) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search)
    values = (0.5, 0.9, 0.7, 0.1, 0.6, 0.8, 0.2)
    for value in values:
        cleaner.clean(end(search, tmp_path, value))

    assert FINALISTS == 5
    assert with_weights(tmp_path) == {0, 1, 2, 4, 5}
    assert all("predictions.npz" in left(tmp_path, number) for number in range(len(values)))
    assert not list((tmp_path / "trials").glob("*/checkpoint*"))


def test_of_equal_trials_the_earlier_ones_are_finalists(study: Study, tmp_path: Path) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search)
    for _ in range(FINALISTS + 2):
        cleaner.clean(end(search, tmp_path, 0.5))

    assert with_weights(tmp_path) == set(range(FINALISTS))


def test_finalists_that_do_not_fit_the_disk_budget_lose_their_weights_but_the_best_never(
    study: Study, tmp_path: Path
) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search, weights_bytes=250)  # each file has 100 bytes
    for value in (0.5, 0.9, 0.7):
        cleaner.clean(end(search, tmp_path, value))
    assert with_weights(tmp_path) == {1, 2}

    make_cleaner(tmp_path, search, weights_bytes=10).clean_all()
    assert with_weights(tmp_path) == {1}


def test_a_continued_run_keeps_the_finalists_of_both_runs(study: Study, tmp_path: Path) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search)
    for value in (0.5, 0.9, 0.7):
        cleaner.clean(end(search, tmp_path, value))

    search = study.search()
    cleaner = make_cleaner(tmp_path, search)
    for value in (0.6, 0.8, 0.4):
        cleaner.clean(end(search, tmp_path, value))
    cleaner.clean_all()

    assert with_weights(tmp_path) == {0, 1, 2, 3, 4}


def test_a_running_trial_keeps_everything(study: Study, tmp_path: Path) -> None:
    search = study.search()
    end(search, tmp_path, 0.5, outcome=None)

    make_cleaner(tmp_path, search).clean_all()

    assert left(tmp_path, 0) == set(FILES)


def test_a_later_run_cleans_up_after_a_killed_one(study: Study, tmp_path: Path) -> None:
    search = study.search()
    for value in (0.5, 0.9):
        end(search, tmp_path, value)

    make_cleaner(tmp_path, study.search()).clean_all()

    assert left(tmp_path, 0) == left(tmp_path, 1) == {"model.pt", "predictions.npz"}


def test_beyond_the_budget_the_worst_trials_predictions_go_first(study: Study, tmp_path: Path) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search, predictions_bytes=250)
    for value in (0.5, 0.9, 0.7):
        cleaner.clean(end(search, tmp_path, value))

    assert "predictions.npz" not in left(tmp_path, 0)
    assert "predictions.npz" in left(tmp_path, 1) & left(tmp_path, 2)
