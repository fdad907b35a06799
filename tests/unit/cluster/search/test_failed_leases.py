"""What a search does without Ray when a trial, its worker or several trials in a row fail."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.trial import TrialState

from cluster.search.search import DONE, MAX_CRASHES
from cluster.search.stopping import FAILURE_STREAK
from contract.lease_errors import LeaseError
from contract.messages import Lease, Outcome, Reason, State
from tests.driven_search import LOST, METRIC, Study, report, run_all, take


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": {METRIC: math.nan}}, "diverged"),
        ({"metrics": {METRIC: math.inf}}, "diverged"),
        ({"metrics": {"val_loss": 1.0}}, "bug"),
        ({"metrics": {}, "outcome": Outcome.FAILED, "reason": Reason.OUT_OF_MEMORY}, "out of memory"),
        (
            {"metrics": {}, "outcome": Outcome.FAILED, "reason": Reason.BUG, "traceback": "Traceback ..."},
            "bug",
        ),
    ],
)
def test_a_failed_trial_is_told_as_failed_with_its_reason(
    study: Study, changes: dict[str, Any], reason: str
) -> None:
    search = study.search()
    lease = take(search)
    search.receive([report(lease, 1)])

    decision = search.receive([report(lease, 2, **changes)])[0]

    trial = study.optuna_trials()[0]
    assert (decision.outcome, decision.reason) == ("failed", reason)
    assert trial.state == TrialState.FAIL
    assert trial.values is None
    assert trial.user_attrs["reason"] == reason
    assert search.best() is None
    run_all(study.search())  # the failed trial does not stop others, in this run or the next


def test_a_trial_whose_worker_dies_is_tried_again_and_given_up_after_three_times(study: Study) -> None:
    search = study.search(num_trials=1)
    attempts = []
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        attempts.append(lease.trials[0].attempt)
        search.lease_ended(lease, LOST)

    trial = study.optuna_trials()[0]
    assert attempts == list(range(1, MAX_CRASHES + 2))
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["attempts"] == MAX_CRASHES + 1
    assert "node died" in trial.user_attrs["traceback"]


def test_crashes_are_counted_over_restarts_of_the_driver(study: Study) -> None:
    for _ in range(MAX_CRASHES):
        search = study.search(num_trials=1)
        search.lease_ended(take(search), LOST)
        last = take(search)

    search.lease_ended(last, LOST)

    trial = study.optuna_trials()[0]
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["attempts"] == 2 * MAX_CRASHES


def test_an_error_that_would_come_again_is_not_tried_again(study: Study) -> None:
    search = study.search(num_trials=1)
    search.lease_ended(take(search), LeaseError(message="KeyError: 'lr'", transient=False))

    assert search.next_lease() is DONE
    assert search.counts()[State.FAILED] == 1


def test_five_bugs_in_a_row_stop_the_study_with_the_reason(study: Study) -> None:
    search = study.search()
    for _ in range(FAILURE_STREAK):
        lease = take(search)
        failed = report(
            lease, 1, outcome=Outcome.FAILED, reason=Reason.DATA, traceback="boom\nOSError: no such photo"
        )
        search.receive([failed])
        search.lease_ended(lease)

    assert search.next_lease() is DONE
    assert search.failure is not None
    assert "data: OSError: no such photo" in search.failure
    assert study.search().failure is None  # the next run may try: the cause may be mended


def test_a_success_between_ends_the_streak(study: Study) -> None:
    search = study.search()
    for number in range(FAILURE_STREAK + 1):
        lease = take(search)
        outcome = Outcome.COMPLETE if number == 2 else Outcome.FAILED
        search.receive([report(lease, 1, outcome=outcome, reason=Reason.BUG)])

    assert search.failure is None
