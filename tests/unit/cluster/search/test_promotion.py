"""Promotion ASHA: which trials pause, which are handed out again, and how a study ends."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.schedulers import load_scheduler
from cluster.schedulers.hyperband import draw_bracket
from cluster.search.search import DONE, Search
from contract.messages import Action, Lease
from tests.driven_search import EPOCHS, Study, report, take

PROMOTION = load_scheduler("promotion_asha")


def search_of(study: Study, **changes: Any) -> Search:
    return study.search(**({"scheduler": PROMOTION, "num_trials": 6} | changes))


def pause(search: Search, value: float) -> Lease:
    lease = take(search)
    decision = search.receive([report(lease, 1, metrics={"val_accuracy": value})])[0]
    assert decision.action is Action.PAUSE
    search.lease_ended(lease)
    return lease


def with_one_to_promote(study: Study) -> Search:
    """Three trials have reached the first rung, so that the best of them, trial 0, goes on next."""
    search = search_of(study)
    for value in (0.5, 0.4):
        pause(search, value)
    third = take(search)
    search.receive([report(third, 1, metrics={"val_accuracy": 0.1})])
    search.lease_ended(third)
    return search


def test_a_paused_trial_leaves_its_slot_to_others_and_comes_back_under_its_number(study: Study) -> None:
    search = with_one_to_promote(study)

    again = take(search).trials[0]

    assert (again.trial, again.attempt, again.done_epochs) == (0, 2, 1)
    assert again.checkpoint_epochs == (1, 3)


def test_one_that_would_be_promoted_at_once_keeps_its_worker(study: Study) -> None:
    search = search_of(study)
    for value in (0.5, 0.4):
        pause(search, value)

    third = take(search)

    best = search.receive([report(third, 1, metrics={"val_accuracy": 0.9})])[0]
    assert best.action is Action.CONTINUE


def test_a_killed_driver_forgets_no_pause_and_no_promotion(study: Study) -> None:
    search = with_one_to_promote(study)
    promoted = take(search).trials[0]

    search = search_of(study)
    resumed, following = take(search).trials[0], take(search).trials[0]

    assert (resumed.trial, resumed.attempt) == (promoted.trial, 3)
    assert following.trial == 3
    assert [n for n, trial in search.trials.items() if trial.paused] == [1, 2]


def test_a_promoted_trial_that_lost_its_checkpoint_replays_its_rung_without_waiting_again(
    study: Study,
) -> None:
    search = with_one_to_promote(study)
    promoted = take(search)

    replayed = search.receive([report(promoted, 1, metrics={"val_accuracy": 0.5})])[0]

    assert replayed.action is Action.CONTINUE


def test_reports_of_a_lease_that_ended_at_a_rung_are_ignored(study: Study) -> None:
    search = search_of(study)
    lease = pause(search, 0.5)

    late = search.receive([report(lease, 2)])[0]

    assert late.action is Action.IGNORED


def test_a_study_ends_with_one_full_trial_at_least_and_the_rest_pruned(study: Study) -> None:
    search = search_of(study, num_trials=2)
    handed_out = []
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        handed_out.append(lease.trials[0].trial)
        for epoch in range(lease.trials[0].done_epochs + 1, EPOCHS + 1):
            if search.receive([report(lease, epoch)])[0].action is not Action.CONTINUE:
                break
        search.lease_ended(lease)

    assert search.counts() == {"complete": 1, "pruned": 1, "failed": 0, "infeasible": 0, "running": 0}
    assert search.finished
    assert study.search(num_trials=2, scheduler=PROMOTION).finished
    assert len(handed_out) > 2


def test_nothing_is_closed_while_somebody_may_still_arrive_at_the_rung(study: Study) -> None:
    search = search_of(study, num_trials=2)
    pause(search, 0.5)
    take(search)

    waiting = search.next_lease()

    assert waiting is None


def test_waiting_does_not_count_as_a_trials_time(study: Study) -> None:
    clock = [1000.0]
    search = study.search(scheduler=PROMOTION, num_trials=1, now=lambda: clock[0])
    lease = take(search)
    clock[0] += 3
    search.receive([report(lease, 1)])
    search.lease_ended(lease)
    clock[0] += 5000

    search = study.search(scheduler=PROMOTION, num_trials=1, now=lambda: clock[0])
    lease = take(search)
    clock[0] += 4
    search.receive([report(lease, EPOCHS)])

    assert study.optuna_trials()[0].user_attrs["seconds"] == pytest.approx(7)


def test_brackets_of_hyperband_follow_the_seed_and_are_all_used() -> None:
    first = [draw_bracket(trial, seed=1) for trial in range(100)]

    assert first == [draw_bracket(trial, seed=1) for trial in range(100)]
    assert first != [draw_bracket(trial, seed=2) for trial in range(100)]
    assert set(first) == {0, 1, 2}
    assert first.count(0) > first.count(1)
