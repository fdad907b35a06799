"""In every search space each published recipe runs to its end, whoever is better or faster beside it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.schedulers import load_scheduler, names
from cluster.search.search import DONE, Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.records import Records
from contract.messages import Action, Lease, Outcome, Report, State
from contract.trial_config import config_as_dict, make_trial_config
from search_spaces import DataFacts, SearchSpace, load_space
from search_spaces import names as space_names
from trainables.training.schedules import planned_shares

FACTS = DataFacts(num_train=1_000, num_classes=5, median_pixels=240 * 320)
COUNTS = (200,) * 5
EPOCHS = 9
NUM_RIVALS = 10


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(
        f"sqlite:///{tmp_path}/study.db", study="s", directions=["maximize"], metric="val_accuracy", new=True
    )
    yield made
    made.close()


def make_search(records: Records, space: SearchSpace, *, scheduler: str) -> Search:
    backbones = space.backbones

    def propose(trial: optuna.Trial) -> dict[str, Any]:
        config = space.propose(trial, backbones=backbones, max_epochs=EPOCHS)
        return config_as_dict(make_trial_config(config))

    recipes = space.recipes(FACTS, backbones=backbones, max_epochs=EPOCHS)
    return Search(
        records,
        SearchSetup(
            space=propose,
            recipes=[(recipe.name, recipe.config) for recipe in recipes],
            make_sampler=load_searcher("random"),
            scheduler=load_scheduler(scheduler),
            num_trials=len(recipes) + NUM_RIVALS,
            seed=0,
            metrics=["val_accuracy"],
            max_epochs=EPOCHS,
            shares_of=lambda config: planned_shares(config, COUNTS),
        ),
    )


def run(search: Search, *, slots: int) -> None:
    """Let every later trial be better than all before it, and the recipes much slower than the others."""
    dice = random.Random(0)
    events: list[tuple[float, int, Lease, int]] = []
    now, waits = 0.0, False
    while True:
        while len(events) < slots and not waits:
            lease = search.next_lease()
            waits = not isinstance(lease, Lease)
            if isinstance(lease, Lease):
                push(events, now, dice, search, lease, lease.trials[0].done_epochs + 1)
        if not events:
            assert search.next_lease() is DONE
            return
        now, _, lease, epoch = heapq.heappop(events)
        if search.receive([make_report(lease, epoch)])[0].action is Action.CONTINUE:
            push(events, now, dice, search, lease, epoch + 1)
        else:
            search.lease_ended(lease)
            waits = False


def push(events: Any, now: float, dice: random.Random, search: Search, lease: Lease, epoch: int) -> None:
    number = lease.trials[0].trial
    slowness = 5.0 if search.trials[number].is_recipe else 1.0
    heapq.heappush(events, (now + slowness * dice.uniform(0.5, 1.5), number, lease, epoch))


def make_report(lease: Lease, epoch: int) -> Report:
    leased = lease.trials[0]
    value = (leased.trial + epoch / 100) / 1_000
    ends = epoch >= len(planned_shares(leased.config, COUNTS))
    return Report(
        trial=leased.trial,
        attempt=leased.attempt,
        epoch=epoch,
        metrics={"val_accuracy": value},
        outcome=Outcome.COMPLETE if ends else None,
    )


def outcomes(search: Search) -> Mapping[bool, list[str | None]]:
    found: dict[bool, list[str | None]] = {True: [], False: []}
    for trial in search.trials.values():
        found[trial.is_recipe].append(trial.outcome)
    return found


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("name", space_names())
def test_every_recipe_completes_under_the_default_scheduler(records: Records, name: str, slots: int) -> None:
    search = make_search(records, load_space(name), scheduler="asha")

    run(search, slots=slots)

    assert set(outcomes(search)[True]) == {"complete"}


@pytest.mark.parametrize("scheduler", names())
def test_no_scheduler_stops_or_pauses_a_recipe(records: Records, scheduler: str) -> None:
    search = make_search(records, load_space("regimes"), scheduler=scheduler)

    run(search, slots=4)

    assert set(outcomes(search)[True]) == {"complete"}
    assert search.finished


def test_a_study_of_recipes_alone_prunes_nothing(records: Records) -> None:
    search = make_search(records, load_space("regimes"), scheduler="asha")
    search.num_trials -= NUM_RIVALS

    run(search, slots=4)

    assert search.counts()[State.COMPLETE] == 21


def test_nearest_neighbours_prune_nobody_by_being_ready_first(records: Records) -> None:
    def space(trial: optuna.Trial) -> dict[str, Any]:
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        is_first = trial.number < 6
        regime = {"regime": "knn", "unfreeze_depth": 0} if is_first else {"regime": "finetune"}
        return config_as_dict(
            make_trial_config({"backbone": "lite0", "max_epochs": EPOCHS, **trial.params, **regime})
        )

    search = Search(
        records,
        SearchSetup(
            space=space,
            make_sampler=load_searcher("random"),
            scheduler=load_scheduler("asha"),
            num_trials=8,
            seed=0,
            metrics=["val_accuracy"],
            max_epochs=EPOCHS,
            shares_of=lambda config: planned_shares(config, COUNTS),
        ),
    )

    def report(lease: Lease, epoch: int) -> Report:
        made = make_report(lease, epoch)
        is_knn = lease.trials[0].config["regime"] == "knn"
        metrics = {"val_accuracy": 0.9 if is_knn else 0.1 + 0.01 * epoch}
        return Report(**{**vars(made), "metrics": metrics})

    while isinstance(lease := search.next_lease(), Lease):
        epoch = 1
        while search.receive([report(lease, epoch)])[0].action is Action.CONTINUE:
            epoch += 1
        search.lease_ended(lease)

    assert search.counts()[State.COMPLETE] == 8


def test_recipes_are_rivals_all_the_same(records: Records) -> None:
    search = make_search(records, load_space("regimes"), scheduler="asha")
    recipes = search.num_trials - NUM_RIVALS

    while isinstance(lease := search.next_lease(), Lease):
        epoch, is_recipe = 1, lease.trials[0].trial < recipes
        while True:
            made = make_report(lease, epoch)
            metrics = {"val_accuracy": 0.9 if is_recipe else 0.1}
            decision = search.receive([replace(made, metrics=metrics)])[0]
            if decision.action is not Action.CONTINUE:
                break
            epoch += 1
        search.lease_ended(lease)

    # Only those that have no rung, since they end with their first epoch, are left.
    stopped = [trial for trial in search.trials.values() if trial.outcome is Outcome.PRUNED]
    assert len(stopped) >= NUM_RIVALS - 3
