"""Final trainings: what is planned, how they are handed out, and what an accident leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.search.finals import Chosen, FinalTrainings, plan_finals
from cluster.search.lease_source import DONE
from cluster.search.search import MAX_CRASHES
from cluster.study.records import Records
from contract.finals import FinalKind
from contract.lease_errors import LeaseError
from contract.messages import Action, Lease, Outcome, Report, State
from contract.metrics import Direction

CONFIG: dict[str, Any] = {"backbone": "lite0", "max_epochs": 3, "kept_epoch": "best"}
CHOSEN = Chosen(trial=7, config=CONFIG, kept_epoch=2)
LOST = LeaseError(message="the node died", transient=True)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = open_records(tmp_path)
    yield opened
    opened.close()


def open_records(tmp_path: Path) -> Records:
    url = f"sqlite:///{tmp_path}/study.db"
    return Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=False)


def begin(records: Records, **asked: Any) -> FinalTrainings:
    planned = plan_finals(records.load_finals(), chosen=[CHOSEN], **asked)
    return FinalTrainings(records, planned, metric="val_accuracy", direction=Direction.MAXIMIZE)


def take(trainings: FinalTrainings) -> Lease:
    lease = trainings.next_lease()
    assert isinstance(lease, Lease)
    trainings.lease_started(lease)
    return lease


def report(lease: Lease, epoch: int, value: float, **changes: Any) -> Report:
    leased = lease.trials[0]
    metrics = {"val_accuracy": value, "val_loss": 1 - value, "train_loss": 0.1}
    return Report(trial=leased.trial, attempt=leased.attempt, epoch=epoch, metrics=metrics, **changes)


def run_through(trainings: FinalTrainings, values: tuple[float, ...] = (0.5, 0.7)) -> None:
    while (lease := trainings.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        for epoch, value in enumerate(values, start=1):
            outcome = Outcome.COMPLETE if epoch == len(values) else None
            trainings.receive([report(lease, epoch, value, outcome=outcome)], worker="here:1")
        trainings.lease_ended(lease)


def test_what_was_asked_for_before_is_not_planned_again(records: Records) -> None:
    run_through(begin(records, seeds=2, folds=3, refit=True))
    existing = records.load_finals()

    assert [record.training.name for record in existing] == [
        "seed 1 of trial 7",
        "seed 2 of trial 7",
        "fold 0 of 3 of trial 7",
        "fold 1 of 3 of trial 7",
        "fold 2 of 3 of trial 7",
        "refit of trial 7",
    ]
    assert plan_finals(existing, chosen=[CHOSEN, CHOSEN], seeds=2, folds=3, refit=True) == []
    more = plan_finals(existing, chosen=[CHOSEN], seeds=3, refit=True)
    assert [(record.final, record.training.name) for record in more] == [(6, "seed 3 of trial 7")]


def test_only_folds_and_refits_have_a_fixed_number_of_epochs(records: Records) -> None:
    planned = plan_finals([], chosen=[CHOSEN], seeds=1, folds=2, refit=True)

    fixed = {record.training.kind: record.training.fixed_epochs for record in planned}
    assert fixed == {FinalKind.SEED: None, FinalKind.FOLD: 2, FinalKind.REFIT: 2}
    draws = {record.training.kind: record.training.draw for record in planned}
    assert draws[FinalKind.FOLD] == draws[FinalKind.REFIT] == 7
    assert draws[FinalKind.SEED] != 7


def test_a_plateau_schedule_is_given_the_losses_of_its_trial(records: Records) -> None:
    config = CONFIG | {"schedule": "plateau"}
    plateau = Chosen(trial=1, config=config, kept_epoch=2, val_losses=(0.5, 0.25))

    planned = plan_finals([], chosen=[plateau], seeds=1, refit=True)

    assert [record.training.val_losses for record in planned] == [(), (0.5, 0.25)]


def test_a_training_keeps_the_epoch_that_its_trial_would(records: Records) -> None:
    trainings = begin(records, seeds=1)

    run_through(trainings, (0.5, 0.7, 0.6))

    [row] = records.load_finals()
    assert (row.state, row.epochs, row.kept_at_epoch) == (State.COMPLETE, 3, 2)
    assert row.metrics == {"val_accuracy": 0.7, "val_loss": pytest.approx(0.3), "train_loss": 0.1}
    assert (row.worker, row.attempt) == ("here:1", 1)
    assert trainings.finished


def test_a_refit_has_no_metric_that_it_could_be_chosen_by(records: Records) -> None:
    trainings = begin(records, refit=True)

    run_through(trainings, (0.9, 0.8))

    [row] = records.load_finals()
    assert row.metrics == {"train_loss": 0.1}
    assert row.kept_at_epoch == 2
    assert trainings.kept_value(0) is None


def test_a_new_driver_goes_on_where_the_records_end(records: Records, tmp_path: Path) -> None:
    first = begin(records, seeds=3)
    run = take(first)
    first.receive([report(run, 1, 0.9, outcome=Outcome.COMPLETE)])
    first.lease_ended(run)
    cut_off = take(first)
    first.receive([report(cut_off, 1, 0.5)])

    second = begin(open_records(tmp_path), seeds=3)

    lease = take(second)
    assert (lease.trials[0].trial, lease.trials[0].attempt, lease.trials[0].done_epochs) == (1, 2, 1)
    assert second.receive([report(cut_off, 2, 0.5)])[0].action is Action.IGNORED
    assert second.num_trials == 2
    second.receive([report(lease, 2, 0.4, outcome=Outcome.COMPLETE)])
    second.lease_ended(lease)
    assert (second.finals[1].kept_at_epoch, second.finals[1].epochs) == (1, 2)
    run_through(second)
    assert second.finished


def test_lost_workers_are_replaced_so_often_and_the_crashes_outlive_the_driver(
    records: Records, tmp_path: Path
) -> None:
    trainings = begin(records, seeds=1)
    trainings.lease_ended(take(trainings), LOST)
    again = begin(open_records(tmp_path), seeds=1)
    for _ in range(MAX_CRASHES - 1):
        assert again.lease_ended(take(again), LOST) == []

    [decision] = again.lease_ended(take(again), LOST)

    assert decision.outcome is Outcome.FAILED
    [row] = records.load_finals()
    assert (row.state, row.error, row.attempt) == (State.FAILED, "the node died", MAX_CRASHES + 1)
    assert plan_finals(records.load_finals(), chosen=[CHOSEN], seeds=1) == []


def test_a_loss_that_is_not_finite_ends_the_training_as_failed(records: Records) -> None:
    trainings = begin(records, seeds=1)

    [decision] = trainings.receive([report(take(trainings), 1, float("nan"))])

    assert (decision.action, decision.outcome) == (Action.STOP, Outcome.FAILED)
    [row] = records.load_finals()
    assert row.error == "diverged: val_accuracy is nan after epoch 1"


def test_after_a_stop_nothing_is_handed_out_and_what_runs_may_go_on_in_the_next_run(records: Records) -> None:
    trainings = begin(records, seeds=2)
    lease = take(trainings)

    trainings.stop()

    assert trainings.next_lease() is DONE
    assert trainings.lease_ended(lease) == []
    assert not trainings.finished
    assert [record.crashes for record in records.load_finals()] == [0, 0]
    assert len(plan_finals(records.load_finals(), chosen=[CHOSEN], seeds=2)) == 2
