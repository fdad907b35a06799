"""Paused trials: they go on before a time budget ends, fit the disk, and their ending says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.schedulers import load_scheduler, names
from cluster.search.cleaning import Cleaner
from cluster.search.search import SPARE_TIME, Search
from contract.messages import Action, LeasedTrial, Outcome
from contract.study_layout import StudyPaths
from tests.driven_search import EPOCHS, Study, report, take

MINUTE = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def complete_one(search: Search, clock: Clock, value: float) -> int:
    lease = take(search)
    search.lease_started(lease)
    for epoch in range(1, EPOCHS + 1):
        clock.now += MINUTE
        search.receive([report(lease, epoch, metrics={"val_accuracy": value - 0.01 * (EPOCHS - epoch)})])
    search.lease_ended(lease)
    return lease.trials[0].trial


def pause_one(search: Search, clock: Clock, value: float) -> int:
    """Run a trial until the scheduler pauses it; all its epochs have this value."""
    lease = take(search)
    search.lease_started(lease)
    for epoch in range(lease.trials[0].done_epochs + 1, EPOCHS + 1):
        clock.now += MINUTE
        decision = search.receive([report(lease, epoch, metrics={"val_accuracy": value})])[0]
        if decision.action is Action.PAUSE:
            search.lease_ended(lease)
            return lease.trials[0].trial
    raise AssertionError("never paused")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def search(study: Study, clock: Clock) -> Search:
    """A search with one complete trial, of 0.9, and a paused one that may still beat it."""
    search = study.search(scheduler=load_scheduler("evidence"), num_trials=6, now=clock)
    complete_one(search, clock, 0.9)
    pause_one(search, clock, 0.805)
    return search


def test_a_paused_trial_goes_on_once_the_time_left_just_holds_the_rest_of_it(
    search: Search, clock: Clock
) -> None:
    left = search.trials[1].seconds_to_end
    assert left == MINUTE * (EPOCHS - search.trials[1].num_epochs)

    search.ends_at = clock.now + 1.4 * left

    assert take(search).trials[0].trial == 1


def test_with_time_left_a_new_trial_comes_first(search: Search, clock: Clock) -> None:
    search.ends_at = clock.now + (SPARE_TIME + 1) * search.trials[1].seconds_to_end

    assert take(search).trials[0].trial == 2


def test_a_paused_trial_that_cannot_be_finished_in_time_stays(search: Search, clock: Clock) -> None:
    search.ends_at = clock.now + 0.5 * search.trials[1].seconds_to_end

    assert take(search).trials[0].trial == 2


def test_paused_trials_whose_checkpoints_do_not_fit_end_the_worst_first(
    study: Study, search: Search, clock: Clock, tmp_path: Path
) -> None:
    paths = StudyPaths(tmp_path)
    cleaner = Cleaner(paths, search, checkpoint_bytes=250)
    paused = [1, pause_one(search, clock, 0.82), pause_one(search, clock, 0.78)]
    for number in paused:
        checkpoint = paths.trial(number).checkpoints[0]
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"x" * 100)

    cleaner.clean(paused[-1])

    ended = [number for number in paused if search.trials[number].outcome is Outcome.PRUNED]
    assert ended == [paused[-1]]
    assert not paths.trial(ended[0]).checkpoints[0].exists()
    assert search.paused == paused[:2]
    attrs = study.optuna_trials()[ended[0]].user_attrs
    assert attrs["reason"] == "paused: no room on disk for its checkpoint"


@pytest.mark.parametrize("name", [name for name in names() if name != "none"])
def test_every_scheduler_says_why_it_stopped_a_trial(study: Study, clock: Clock, name: str) -> None:
    search = study.search(scheduler=load_scheduler(name), num_trials=8, now=clock)
    for value in (0.9, 0.8, 0.85):
        complete_one(search, clock, value)
    bad = {run_badly(search).trial for _ in range(5)}  # of hyperband's brackets one is never judged
    search.prune_paused(search.paused)

    ended = [trial.user_attrs for trial in study.optuna_trials() if trial.number in bad]

    reasons = [attrs["reason"] for attrs in ended if attrs["outcome"] == Outcome.PRUNED]
    assert reasons
    assert all(re.search(r"epoch \d", reason) for reason in reasons), reasons


def run_badly(search: Search) -> LeasedTrial:
    lease = take(search)
    for epoch in range(1, EPOCHS + 1):
        decision = search.receive([report(lease, epoch, metrics={"val_accuracy": 0.1})])[0]
        if decision.action is not Action.CONTINUE:
            break
    search.lease_ended(lease)
    return lease.trials[0]
