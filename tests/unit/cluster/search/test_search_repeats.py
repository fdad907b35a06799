"""A search proposes nothing twice, and ends when a finite space is used up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster import searchers
from cluster.schedulers import load_scheduler
from cluster.search.proposals import Infeasible
from cluster.search.search import DONE, Search
from cluster.searchers import load_searcher
from contract.messages import State
from tests.driven_search import EPOCHS, Study, report, run_all, take


def finite(trial: optuna.Trial) -> dict[str, Any]:
    """A space of seven configurations, some parameters of which are conditional."""
    trial.suggest_categorical("optimizer", ("sgd", "adamw"))
    if trial.params["optimizer"] == "sgd":
        trial.suggest_float("momentum", 0.5, 0.9, step=0.1)
    else:
        trial.suggest_int("unfreeze_depth", 1, 2)
    return {"learning_rate": 1e-3}


def search_of(study: Study, **changes: Any) -> Search:
    return study.search(**{"space": finite, "scheduler": load_scheduler("none"), "num_trials": 30} | changes)


def configs(search: Search) -> list[tuple[Any, ...]]:
    return [tuple(sorted(trial.config.items())) for trial in search.trials.values()]


@pytest.mark.parametrize("name", searchers.names())
def test_every_configuration_of_a_finite_space_is_tried_once(study: Study, name: str) -> None:
    search = search_of(study, make_sampler=load_searcher(name))

    run_all(search)

    assert len(set(configs(search))) == len(search.trials) == 7
    assert search.finished
    assert search.used_up


def test_a_used_up_space_is_still_used_up_in_the_next_run(study: Study) -> None:
    run_all(search_of(study))

    search = search_of(study)

    assert search.finished
    assert search.next_lease() is DONE


def test_a_finite_space_that_has_more_to_offer_goes_on_in_the_next_run(study: Study) -> None:
    run_all(search_of(study, num_trials=3))

    search = search_of(study, num_trials=5)

    assert not search.finished
    assert not search.used_up
    run_all(search)
    assert len(set(configs(search))) == 5


def test_a_killed_search_proposes_the_same_where_repeats_were_withdrawn(study: Study, tmp_path: Path) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = search_of(Study(tmp_path / "undisturbed"), make_sampler=load_searcher("tpe"))
    run_all(undisturbed)

    for _ in range(3):
        search = search_of(study, make_sampler=load_searcher("tpe"))
        lease = take(search)
        for epoch in range(1, EPOCHS + 1):
            search.receive([report(lease, epoch)])
        search.lease_ended(lease)
    search = search_of(study, make_sampler=load_searcher("tpe"))
    run_all(search)

    assert configs(search) == configs(undisturbed)


def test_what_a_recipe_has_tried_is_not_proposed(study: Study) -> None:
    recipe = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-3}
    search = search_of(study, recipes=[("published", recipe)])

    run_all(search)

    assert len(search.trials) == 7


def test_configurations_outside_the_limits_are_met_once_and_not_again(study: Study) -> None:
    def limited(trial: optuna.Trial) -> dict[str, Any]:
        if trial.suggest_categorical("batch_size", (16, 32, 64)) == 64:
            raise Infeasible("too large")
        return {"learning_rate": 1e-3}

    search = search_of(study, space=limited)
    run_all(search)

    assert search.counts()[State.COMPLETE] == 2
    assert search.counts()[State.INFEASIBLE] <= 1
    assert search.finished


def test_a_continuous_space_is_never_used_up(study: Study) -> None:
    search = study.search(num_trials=3, scheduler=load_scheduler("none"))

    run_all(search)

    assert search.finished
    assert not search.used_up
