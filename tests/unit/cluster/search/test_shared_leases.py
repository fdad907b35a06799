"""Leases of several trials: which trials share one, where it ends, and what the failure of one means."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.schedulers import load_scheduler
from cluster.search.leasing import group_size
from cluster.search.search import DONE, Search
from contract.lease_errors import LeaseError
from contract.messages import Action, Decision, Lease, Outcome, Reason, State
from tests.driven_search import EPOCHS, LOST, Study, outcomes, report

TRIALS = 16


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    regime = trial.suggest_categorical("regime", ("linear_probe", "linear_probe ", "finetune"))
    return {"regime": regime.strip()}


def group_of(config: Mapping[str, Any]) -> Hashable | None:
    return "head" if config["regime"] == "linear_probe" else None


def search_of(study: Study, *, scheduler: str = "none", **changes: Any) -> Search:
    settings = {"space": space, "num_trials": TRIALS, "group_of": group_of}
    return study.search(scheduler=load_scheduler(scheduler), **settings | changes)


def take(search: Search) -> Lease:
    lease = search.next_lease()
    assert isinstance(lease, Lease)
    return lease


def numbers(lease: Lease) -> list[int]:
    return [leased.trial for leased in lease.trials]


def step(search: Search, lease: Lease, epoch: int, *, only: int | None = None) -> list[Decision]:
    """Report an epoch of every trial in the lease that has not reached it yet."""
    reports = [
        report(Lease(trials=(one,)), epoch)
        for one in lease.trials
        if one.done_epochs < epoch <= (one.until_epoch or EPOCHS) and only in (None, one.trial)
    ]
    return search.receive(reports)


def run_lease(search: Search, lease: Lease) -> None:
    for epoch in range(1, EPOCHS + 1):
        step(search, lease, epoch)
    search.lease_ended(lease)


def run_all(search: Search) -> list[list[int]]:
    handed_out = []
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        handed_out.append(numbers(lease))
        run_lease(search, lease)
    return handed_out


def test_trials_of_a_group_share_a_lease_and_the_first_of_another_comes_next(study: Study) -> None:
    search = search_of(study)

    leases = run_all(search)

    assert search.counts()[State.COMPLETE] == TRIALS
    assert sorted(number for lease in leases for number in lease) == list(range(TRIALS))
    assert max(len(lease) for lease in leases) == group_size(TRIALS, slots=1) == 4
    configs = {number: trial.config for number, trial in search.trials.items()}
    for lease in leases:
        groups = {group_of(configs[number]) for number in lease}
        assert len(groups) == 1
        assert len(lease) == 1 or groups == {"head"}
    assert [lease[0] for lease in leases] == sorted(lease[0] for lease in leases)


def test_without_groups_every_trial_has_a_lease_of_its_own(study: Study) -> None:
    search = study.search(space=space, num_trials=TRIALS)

    lease = take(search)

    assert len(lease.trials) == 1
    assert lease.trials[0].until_epoch is None


@pytest.mark.parametrize(
    ("num_trials", "slots", "size"), [(256, 2, 16), (32, 2, 4), (32, 1, 8), (15, 4, 1), (1, 1, 1)]
)
def test_groups_leave_every_slot_four_leases_at_least(num_trials: int, slots: int, size: int) -> None:
    assert group_size(num_trials, slots=slots) == size


def test_towards_the_end_leases_get_smaller_so_that_no_slot_waits_long(study: Study) -> None:
    search = search_of(study, num_trials=32, space=lambda trial: space(trial) | {"regime": "linear_probe"})
    search.set_slots(2)

    sizes = [len(lease) for lease in run_all(search)]

    assert sizes[0] == 4
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_a_lease_ends_at_the_next_rung_and_survivors_are_handed_out_again(study: Study) -> None:
    search = search_of(study, scheduler="asha", num_trials=64)
    first = take(search)
    assert len(first.trials) > 3
    decisions = step(search, first, 1)
    survivors = [decision.trial for decision in decisions if decision.action is Action.CONTINUE]

    assert search.lease_ended(first) == []
    second = take(search)

    assert {one.until_epoch for one in first.trials} == {1}
    assert 0 < len(survivors) < len(first.trials)
    assert set(survivors) <= set(numbers(second))
    again = [one for one in second.trials if one.trial in survivors]
    assert {(one.attempt, one.done_epochs, one.until_epoch) for one in again} == {(2, 1, 3)}
    assert all(one.checkpoint_epochs == (one.until_epoch,) for one in second.trials)


def test_a_scheduler_that_may_stop_behind_any_epoch_gets_leases_of_one(study: Study) -> None:
    search = search_of(study, scheduler="median", num_trials=64)

    assert len(take(search).trials) == 1


def test_one_that_fails_leaves_the_lease_and_the_others_go_on(study: Study) -> None:
    search = search_of(study, space=lambda trial: space(trial) | {"regime": "linear_probe"})
    lease = take(search)
    broken = Lease(trials=lease.trials[1:2])
    failed = report(broken, 1, metrics={}, outcome=Outcome.FAILED, reason=Reason.DIVERGED)

    search.receive([failed])
    run_lease(search, lease)

    ends = [search.trials[number].outcome for number in numbers(lease)]
    assert ends == ["complete", "failed", "complete", "complete"]


def test_a_worker_that_dies_takes_its_trials_to_another_and_the_second_time_each_goes_alone(
    study: Study,
) -> None:
    search = search_of(study, space=lambda trial: space(trial) | {"regime": "linear_probe"})
    first = take(search)
    step(search, first, 1)

    search.lease_ended(first, LOST)
    second = take(search)
    search.lease_ended(second, LOST)
    alone = [take(search) for _ in first.trials]

    assert numbers(second) == numbers(first)
    assert {(one.attempt, one.done_epochs) for one in second.trials} == {(2, 1)}
    assert [numbers(lease) for lease in alone] == [[number] for number in numbers(first)]


def test_an_error_of_the_trainable_fails_all_that_shared_its_lease(study: Study) -> None:
    search = search_of(study, space=lambda trial: space(trial) | {"regime": "linear_probe"})
    lease = take(search)

    decisions = search.lease_ended(lease, LeaseError(message="KeyError: 'lr'", transient=False))

    assert [decision.outcome for decision in decisions] == ["failed"] * len(lease.trials)


def test_trials_that_share_a_worker_share_its_time(study: Study) -> None:
    clock = [1000.0]
    search = search_of(
        study, space=lambda trial: space(trial) | {"regime": "linear_probe"}, now=lambda: clock[0]
    )
    lease = take(search)
    for epoch in range(1, EPOCHS + 1):
        clock[0] += 4
        step(search, lease, epoch)
    search.lease_ended(lease)

    seconds = [search.trials[number].seconds for number in numbers(lease)]

    assert seconds == pytest.approx([EPOCHS] * 4)


def test_recipes_come_first_and_in_order_in_shared_leases_too(study: Study) -> None:
    recipes = [
        (f"recipe {number}", {"learning_rate": 0.01 / (number + 1), "regime": regime})
        for number, regime in enumerate(("linear_probe", "linear_probe", "finetune", "linear_probe"))
    ]
    search = search_of(study, recipes=recipes)

    leases = [take(search) for _ in range(3)]

    assert [numbers(lease)[0] for lease in leases] == [0, 2, 3]
    assert numbers(leases[0]) == [0, 1]
    assert numbers(leases[1]) == [2]


@pytest.mark.parametrize("scheduler", ["none", "asha", "hyperband", "promotion_asha"])
@pytest.mark.parametrize("killed_at", (0, 3, 12, 29, 55))
def test_killed_at_any_moment_the_same_leases_follow(
    study: Study, tmp_path: Path, scheduler: str, killed_at: int
) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Study(tmp_path / "undisturbed")
    run_all(search_of(undisturbed, scheduler=scheduler))

    moments = iter(range(1000))
    search = search_of(study, scheduler=scheduler)
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        if next(moments) == killed_at:
            search = search_of(study, scheduler=scheduler)  # kill -9: handed out, and nothing heard of it
            continue
        for epoch in range(1, EPOCHS + 1):
            if step(search, lease, epoch) and next(moments) == killed_at:
                break
        else:
            search.lease_ended(lease)
            continue
        search = search_of(study, scheduler=scheduler)

    assert outcomes(study) == outcomes(undisturbed)
    assert undisturbed.records is not None
    undisturbed.records.close()


def test_killed_between_the_proposals_of_a_group_the_next_run_proposes_the_same(
    study: Study, tmp_path: Path
) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Study(tmp_path / "undisturbed")
    expected = take(search_of(undisturbed))
    asked = []

    def dying(trial: optuna.Trial) -> dict[str, Any]:
        asked.append(trial.number)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return space(trial)

    with pytest.raises(KeyboardInterrupt):
        search_of(study, space=dying).next_lease()
    lease = take(search_of(study))

    assert asked == [0, 1]
    assert lease == expected
    assert undisturbed.records is not None
    undisturbed.records.close()
