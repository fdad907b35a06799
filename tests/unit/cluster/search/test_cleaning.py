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
    search = study.search(num_trials=FINALISTS + 5)
    cleaner = make_cleaner(tmp_path, search)
    values = [0.5, 0.9, 0.1, *(0.6 for _ in range(FINALISTS))]
    for value in values:
        cleaner.clean(end(search, tmp_path, value))

    assert with_weights(tmp_path) == {1, *range(3, FINALISTS + 2)}
    assert all("predictions.npz" in left(tmp_path, number) for number in range(len(values)))
    assert not list((tmp_path / "trials").glob("*/checkpoint*"))


def test_the_best_recipe_keeps_its_weights_however_many_trials_are_better(
    study: Study, tmp_path: Path
) -> None:
    search = study.search(num_trials=FINALISTS + 5)
    cleaner = make_cleaner(tmp_path, search)
    search.trials[end(search, tmp_path, 0.5)].is_recipe = True
    for _ in range(FINALISTS + 2):
        cleaner.clean(end(search, tmp_path, 0.6))

    assert with_weights(tmp_path) == set(range(FINALISTS + 1))


def test_a_trial_that_failed_leaves_no_predictions_and_a_stopped_one_does(
    study: Study, tmp_path: Path
) -> None:
    search = study.search()
    cleaner = make_cleaner(tmp_path, search)
    for outcome in (Outcome.FAILED, Outcome.INFEASIBLE, Outcome.PRUNED):
        number = end(search, tmp_path, 0.5, outcome=None)
        search.trials[number].outcome = outcome
        cleaner.clean(number)

    assert left(tmp_path, 0) == left(tmp_path, 1) == set()
    assert left(tmp_path, 2) == {"predictions.npz"}


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
    search = study.search(num_trials=FINALISTS + 5)
    cleaner = make_cleaner(tmp_path, search)
    for value in (0.5, 0.1, 0.7):
        cleaner.clean(end(search, tmp_path, value))

    search = study.search(num_trials=FINALISTS + 5)
    cleaner = make_cleaner(tmp_path, search)
    for _ in range(FINALISTS - 2):
        cleaner.clean(end(search, tmp_path, 0.6))
    cleaner.clean_all()

    assert with_weights(tmp_path) == set(range(FINALISTS + 1)) - {1}


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
