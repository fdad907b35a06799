"""Decisions of a search without Ray: proposals, pruning, recipes, and how it goes on after a kill."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cluster.schedulers import load_scheduler
from cluster.search.proposals import Infeasible
from cluster.search.search import DONE
from cluster.searchers import load_searcher
from contract.messages import Action, Outcome, State
from tests.driven_search import EPOCHS, METRIC, Study, outcomes, report, run_all, run_lease, space, take


def test_a_whole_search_ends_with_every_trial_complete_or_pruned(study: Study) -> None:
    search = study.search()

    run_all(search)

    counts = search.counts()
    assert search.finished
    assert counts["complete"] + counts["pruned"] == 12
    assert counts["pruned"] > 0
    trials = study.optuna_trials()
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.value == max(trial.intermediate_values.values())
        assert trial.user_attrs["config"]["optimizer"] == "adamw"
        assert trial.user_attrs["attempts"] == 1
    best = search.best()
    assert best is not None
    assert best[1] == max(t.value for t in trials if t.value is not None)


@pytest.mark.parametrize("kills", [1, 4])
def test_a_search_killed_anywhere_ends_like_one_that_never_was(
    study: Study, tmp_path: Path, kills: int
) -> None:
    undisturbed = Study(tmp_path / "undisturbed")
    (tmp_path / "undisturbed").mkdir()
    run_all(undisturbed.search())
    dice = random.Random(kills)

    search = study.search()
    for _ in range(kills):
        for _ in range(dice.randint(1, 3)):
            run_lease(search, take(search))
        lease = take(search)
        for epoch in range(1, dice.randint(1, 3)):
            if search.receive([report(lease, epoch)])[0].action is Action.STOP:
                break
        search = study.search()  # kill -9: nothing is told, nothing is closed
    run_all(search)

    assert outcomes(study) == outcomes(undisturbed)
    assert undisturbed.records is not None
    undisturbed.records.close()


def test_unfinished_trials_come_first_under_their_own_number_with_the_next_attempt(study: Study) -> None:
    search = study.search()
    first, second = take(search), take(search)
    search.receive([report(first, 1)])
    search.receive([report(first, 2)])

    leases = [take(search := study.search()), take(search)]

    assert [lease.trials[0].trial for lease in leases] == [0, 1]
    assert [lease.trials[0].attempt for lease in leases] == [2, 2]
    assert [lease.trials[0].done_epochs for lease in leases] == [2, 0]
    assert leases[1].trials[0].config == second.trials[0].config


def test_reports_of_an_older_attempt_or_of_an_ended_trial_are_ignored(study: Study) -> None:
    old = take(study.search())
    search = study.search()
    new = take(search)

    stale = search.receive([report(old, 1)])
    done = search.receive([report(new, EPOCHS)])
    after = search.receive([report(new, EPOCHS)])

    assert [d[0].action for d in (stale, done, after)] == ["ignored", "stop", "ignored"]
    assert study.optuna_trials()[0].user_attrs["outcome"] == "complete"


def test_a_replayed_epoch_keeps_its_decision_although_better_trials_came_since(study: Study) -> None:
    search = study.search()
    leases = [take(search) for _ in range(6)]
    for lease in leases[:2]:
        assert search.receive([report(lease, 1, metrics={METRIC: 0.1})])[0].action is Action.CONTINUE
    for lease in leases[2:]:
        search.receive([report(lease, 1, metrics={METRIC: 0.9})])
    search = study.search()
    lease = take(search)

    replayed = search.receive([report(lease, 1, metrics={METRIC: 0.1})])[0]

    assert replayed.action is Action.CONTINUE


def test_several_epochs_in_one_report_are_decided_in_order(study: Study) -> None:
    search = study.search()
    for _ in range(3):
        run_lease(search, take(search))
    lease = take(search)

    decisions = search.receive([report(lease, e, metrics={METRIC: 0.0}, outcome=None) for e in (1, 2, 3)])

    assert [d.action for d in decisions] == ["stop", "ignored", "ignored"]
    assert decisions[0].outcome is Outcome.PRUNED


def test_results_may_arrive_in_any_order(study: Study) -> None:
    search = study.search(num_trials=3)
    leases = [take(search) for _ in range(3)]
    ended = set()
    for epoch in range(1, EPOCHS + 1):
        for lease in reversed(leases):
            decision = search.receive([report(lease, epoch)])[0]
            if decision.action is Action.STOP:
                ended.add(decision.trial)
                search.lease_ended(lease)

    assert ended == {0, 1, 2}
    assert search.finished
    assert search.next_lease() is DONE


def test_nothing_is_proposed_beyond_the_last_trial_while_one_still_runs(study: Study) -> None:
    search = study.search(num_trials=1)
    lease = take(search)

    waiting = search.next_lease()
    run_lease(search, lease)

    assert waiting is None
    assert search.next_lease() is DONE


def test_stopping_keeps_unfinished_trials_for_the_next_run(study: Study) -> None:
    search = study.search()
    lease = take(search)
    search.stop()

    kept = search.receive([report(lease, 1)])[0]
    search.lease_ended(lease)

    assert kept.action is Action.CONTINUE
    assert search.next_lease() is DONE
    assert study.optuna_trials()[0].state == TrialState.RUNNING
    assert take(study.search()).trials[0].done_epochs == 1


def test_recipes_come_first_in_full_and_only_once(study: Study) -> None:
    recipe = {"learning_rate": 0.003, "regime": "linear_probe", "optimizer": "sgd", "momentum": 0.9}
    recipes = [("BiT", recipe), ("Howard", recipe | {"learning_rate": 0.01})]
    search = study.search(recipes=recipes)

    first = take(search)
    search = study.search(recipes=recipes)
    second = [take(search), take(search), take(search)][1:]

    assert first.trials[0].config == recipe | {"max_epochs": EPOCHS}
    assert second[0].trials[0].config["learning_rate"] == 0.01
    trials = study.optuna_trials()
    assert [t.user_attrs.get("recipe") for t in trials] == ["BiT", "Howard", None]
    assert trials[0].params == {"learning_rate": 0.003, "regime": "linear_probe"}
    assert trials[2].user_attrs["config"]["optimizer"] == "adamw"


def test_a_recipe_outside_the_space_fails_and_says_so(study: Study) -> None:
    search = study.search(recipes=[("wild", {"learning_rate": 5.0})])

    lease = take(search)

    assert lease.trials[0].trial == 1
    assert "out of range" in study.optuna_trials()[0].user_attrs["traceback"]


def test_an_infeasible_proposal_is_recorded_and_the_next_one_is_handed_out(study: Study) -> None:
    def limited(trial: optuna.Trial) -> dict[str, Any]:
        fixed = space(trial)
        if trial.number in (0, 1):
            raise Infeasible("30 million parameters, --max-params is 20 million")
        return fixed

    lease = take(study.search(space=limited))

    assert lease.trials[0].trial == 2
    trial = study.optuna_trials()[0]
    assert trial.state == TrialState.PRUNED
    assert trial.constraints == {"infeasible": 1.0}
    assert trial.user_attrs["outcome"] == "infeasible"
    assert "--max-params" in trial.user_attrs["reason"]
    search = study.search(space=limited)
    assert search.counts()[State.INFEASIBLE] == 2


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_the_same_history_gives_the_same_proposal(study: Study, searcher: str) -> None:
    sampler = load_searcher(searcher)
    settings = {"make_sampler": sampler, "num_trials": 20, "scheduler": load_scheduler("none")}
    search = study.search(**settings)
    for _ in range(8):
        run_lease(search, take(search))
    running = take(search)
    search.receive([report(running, 1)])
    live = take(search).trials[0].config

    # The run before forgets trial 9 as if it had been killed a moment earlier.
    assert study.records is not None
    with study.records._engine.begin() as connection:
        for table in ("trial_params", "trial_user_attributes", "trial_system_attributes", "trials"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE trial_id = 10")
    resumed = study.search(**settings)
    assert take(resumed).trials[0].trial == 8

    assert take(resumed).trials[0].config == live


def test_minimizing_a_loss_keeps_the_lowest(study: Study) -> None:
    search = study.search(metrics=["val_loss"], directions=["minimize"], scheduler=load_scheduler("none"))
    lease = take(search)
    for epoch, loss in ((1, 2.0), (2, 0.5), (3, 0.7)):
        outcome = Outcome.COMPLETE if epoch == 3 else None
        search.receive([report(lease, epoch, metrics={"val_loss": loss}, outcome=outcome)])

    assert search.best() == (0, 0.5)


def test_seconds_count_all_attempts_and_no_time_between_them(study: Study) -> None:
    clock = [1000.0]
    search = study.search(now=lambda: clock[0])
    lease = take(search)
    clock[0] += 10
    search.lease_started(lease)
    clock[0] += 3
    search.receive([report(lease, 1)])
    clock[0] += 5000  # killed; taken up the next day
    search = study.search(now=lambda: clock[0])
    lease = take(search)
    clock[0] += 4

    search.receive([report(lease, EPOCHS)])

    assert study.optuna_trials()[0].user_attrs["seconds"] == pytest.approx(17)
