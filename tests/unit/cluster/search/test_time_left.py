"""A search with a time budget begins what can end, leaves what cannot, and says that its time was short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.schedulers import load_scheduler
from cluster.search.search import DONE, Search
from contract.messages import Outcome
from tests.driven_search import EPOCHS, Study, report, take

MINUTE = 60.0
DEEP, SHALLOW = 10 * MINUTE, MINUTE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def expected_seconds(config: Mapping[str, Any]) -> float:
    return DEEP if config["regime"] == "finetune" else SHALLOW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def search(study: Study, clock: Clock) -> Search:
    return study.search(
        scheduler=load_scheduler("none"), num_trials=30, now=clock, expected_seconds=expected_seconds
    )


def run(search: Search, clock: Clock, *, epoch_seconds: float | None = None) -> int:
    """Run the next lease until its trial ends or gives its worker back; returns the trial's number.

    Without `epoch_seconds` epochs take what is expected.
    """
    lease = take(search)
    epoch_seconds = epoch_seconds or expected_seconds(lease.trials[0].config) / EPOCHS
    search.lease_started(lease)
    for epoch in range(lease.trials[0].done_epochs + 1, EPOCHS + 1):
        clock.now += epoch_seconds
        search.receive([report(lease, epoch)])
        if not search.goes_on(lease):
            break
    search.lease_ended(lease)
    return lease.trials[0].trial


def test_a_trial_that_cannot_end_in_time_waits_while_a_shorter_one_begins(
    search: Search, clock: Clock
) -> None:
    run(search, clock)
    search.ends_at = clock.now + 0.5 * DEEP

    started = [take(search).trials[0] for _ in range(4)]

    assert {leased.config["regime"] for leased in started} == {"linear_probe"}
    waiting = [number for number, trial in search.trials.items() if not trial.attempt]
    assert waiting and min(waiting) < started[-1].trial
    assert {search.trials[number].config["regime"] for number in waiting} == {"finetune"}


def test_a_search_without_expectations_begins_everything_in_time(study: Study, clock: Clock) -> None:
    search = study.search(scheduler=load_scheduler("none"), num_trials=3, now=clock)
    search.ends_at = clock.now + 1.0

    assert [take(search).trials[0].trial for _ in range(3)] == [0, 1, 2]


def test_a_trial_gives_its_worker_back_before_an_epoch_that_would_end_too_late(
    search: Search, clock: Clock
) -> None:
    run(search, clock, epoch_seconds=1.0)
    search.ends_at = clock.now + 3.5 * MINUTE

    number = run(search, clock, epoch_seconds=MINUTE)

    assert search.trials[number].num_epochs == 3
    assert search.trials[number].outcome is None
    assert clock.now < search.ends_at


def test_a_search_ends_before_its_time_when_nothing_that_is_left_can_end(
    search: Search, clock: Clock
) -> None:
    run(search, clock)
    search.ends_at = clock.now + 0.1 * SHALLOW

    assert search.next_lease() is DONE

    assert search.out_of_time and not search.finished


def test_the_next_run_goes_on_with_what_could_not_end(study: Study, search: Search, clock: Clock) -> None:
    run(search, clock, epoch_seconds=1.0)
    search.ends_at = clock.now + 3.5 * MINUTE
    number = run(search, clock, epoch_seconds=MINUTE)

    again = study.search(scheduler=load_scheduler("none"), num_trials=30, now=clock)

    lease = take(again)
    assert lease.trials[0].trial == number and lease.trials[0].done_epochs == 3


def test_trials_that_take_longer_than_expected_make_the_next_ones_longer(
    search: Search, clock: Clock
) -> None:
    search.ends_at = clock.now + 1e6
    number = run(search, clock, epoch_seconds=2.0)
    as_expected = expected_seconds(search.trials[number].config) / EPOCHS

    assert search._time.ratio == pytest.approx((2.0 * EPOCHS + 2.0) / (as_expected * EPOCHS + 2.0))
    assert search.trials[number].outcome is Outcome.COMPLETE


def test_the_first_trial_may_try_though_it_is_expected_to_end_too_late(search: Search, clock: Clock) -> None:
    search.ends_at = clock.now + 1.0

    assert take(search).trials[0].trial == 0
