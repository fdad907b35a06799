"""Every searcher proposes from the study it is asked about and its draw, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cluster import searchers
from cluster.searchers import Draw, load_searcher
from cluster.searchers.qmc import spread

Space = Callable[[optuna.Trial], dict[str, Any]]


def conditional(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("x", 0, 1)
    if trial.suggest_categorical("kind", ("a", "b")) == "a":
        trial.suggest_int("depth", 0, 4)
    return {}


def numeric(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("x", 0, 1)
    trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    trial.suggest_int("depth", 0, 4)
    trial.suggest_categorical("backbone", ("lite0",))
    return {}


def make_draw(index: int) -> Draw:
    return Draw(seed=index + 7, study_seed=3, index=index, num_startup=4)


def search(name: str, space: Space, *, num: int) -> list[dict[str, Any]]:
    """Ask and tell, with a fresh sampler each time; the score is the distance of x from 0.7."""
    study = optuna.create_study(direction="maximize")
    for index in range(num):
        study.sampler = load_searcher(name)(make_draw(index))
        trial = study.ask()
        space(trial)
        study.tell(trial, -abs(trial.params["x"] - 0.7))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", searchers.names())
def test_the_same_draws_give_the_same_proposals(name: str) -> None:
    first, second = (search(name, numeric, num=6) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("name", searchers.names())
def test_proposals_do_not_repeat(name: str) -> None:
    proposals = search(name, numeric, num=7)

    assert len({proposal["x"] for proposal in proposals}) == 7


@pytest.mark.parametrize("name", searchers.names())
def test_a_searcher_copes_with_conditional_spaces(name: str) -> None:
    for params in search(name, conditional, num=6):
        assert 0 <= params["x"] <= 1
        assert ("depth" in params) == (params["kind"] == "a")


def test_sobol_points_fill_the_range_evenly() -> None:
    values = sorted(proposal["x"] for proposal in search("qmc", numeric, num=16))

    assert [int(value * 16) for value in values] == list(range(16))


def test_a_share_of_a_distribution_stays_inside_it() -> None:
    distributions = (
        FloatDistribution(-1, 2),
        FloatDistribution(1e-5, 1e-1, log=True),
        FloatDistribution(0, 1, step=0.25),
        IntDistribution(1, 9, step=2),
        IntDistribution(1, 100, log=True),
        CategoricalDistribution(("a", "b", "c")),
    )
    for distribution in distributions:
        values = [spread(distribution, share) for share in (0.0, 0.3, 0.7, 0.999999)]

        assert all(distribution._contains(distribution.to_internal_repr(value)) for value in values)
        assert len(set(values)) > 1
