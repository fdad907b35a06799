"""The searcher `guided`: what its proposals lie around, and that they follow from the records alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cluster.searchers import Draw, Probe, load_searcher
from cluster.searchers.guided import NUM_UNIFORM, Plan, is_ordered, to_unit

BEST = {"learning_rate": 1e-3, "regime": "finetune", "unfreeze_depth": 3}


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    if trial.suggest_categorical("regime", ("finetune", "linear_probe")) == "finetune":
        trial.suggest_categorical("unfreeze_depth", (1, 2, 3, "all"))


def propose(study: optuna.Study, index: int) -> dict[str, Any]:
    study.sampler = load_searcher("guided")(
        Draw(seed=1000 + index, study_seed=0, index=index, num_startup=10)
    )
    trial = study.ask()
    space(trial)
    return trial.params


def make_study(num: int = 30) -> optuna.Study:
    """A study of which trials near BEST have the best values; the first was given."""
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(BEST)
    for index in range(num):
        params = propose(study, max(index - 1, 0))
        distance = abs(to_unit(params["learning_rate"], RATES) - 0.5) + 0.2 * (params["regime"] != "finetune")
        study.tell(index, 1 - distance - 0.1 * (params.get("unfreeze_depth", 3) != 3))
    return study


RATES = FloatDistribution(1e-5, 1e-1, log=True)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_after_the_first_proposals_most_lie_near_the_best() -> None:
    study = make_study()
    proposed = [trial.params for trial in study.trials[1 + NUM_UNIFORM :]]

    near = [abs(to_unit(params["learning_rate"], RATES) - 0.5) < 0.2 for params in proposed]

    assert sum(near) > 0.6 * len(near)  # uniform draws: 0.4
    assert sum(params["regime"] == "finetune" for params in proposed) > 0.7 * len(proposed)


def test_the_same_history_leads_to_the_same_proposal() -> None:
    first, second = make_study(12), make_study(12)

    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]


def test_proposals_made_in_parallel_differ() -> None:
    study = make_study(12)

    proposals = [propose(study, 20 + number) for number in range(8)]

    assert len({tuple(sorted(map(str, params.items()))) for params in proposals}) == 8


def test_a_value_that_the_space_no_longer_has_is_drawn_anew() -> None:
    plan = Plan({"batch_size": 512, "layers": 40}, np.random.default_rng(0), changed=0.0)

    assert plan.value("batch_size", CategoricalDistribution((16, 32))) in (16, 32)
    assert plan.value("layers", IntDistribution(1, 9)) in range(1, 10)


def test_numbers_in_ascending_order_and_all_behind_them_are_steps() -> None:
    assert is_ordered((0, 1, 2, "all"))
    assert is_ordered((16, 32, 64))
    assert not is_ordered(("none", "light", "strong"))
    assert not is_ordered((False, True))
    assert not is_ordered((1, 2))


def test_a_step_never_leaves_the_range() -> None:
    plan = Plan({"dropout": 0.49}, np.random.default_rng(0), changed=1.0)

    values = [plan.value("dropout", FloatDistribution(0.0, 0.5)) for _ in range(200)]

    assert 0 <= min(values) < 0.4
    assert max(values) <= 0.5


def test_a_study_without_any_value_is_searched_uniformly() -> None:
    study = optuna.create_study(direction="maximize")

    assert all(propose(study, 50 + number) for number in range(3))


def with_probes(best: str, num: int = 12) -> list[str]:
    """Backbones that are proposed, one after the other, when the probes' heads on `best` did best."""
    probes = [
        Probe(
            config={"backbone": name, "unfreeze_depth": 0, "learning_rate": rate},
            score=0.8 if name == best else 0.6,
            loss=1.0,
            seconds=0.1,
        )
        for name in ("a", "b", "c")
        for rate in (1e-4, 1e-3, 1e-2)
    ]
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"backbone": "a", "unfreeze_depth": 0, "learning_rate": 1e-3})
    proposed = []
    for index in range(num + 1):
        draw = Draw(seed=index, study_seed=0, index=max(0, index - 1), num_startup=10, probes=probes)
        study.sampler = load_searcher("guided")(draw)
        trial = study.ask()
        name = trial.suggest_categorical("backbone", ("a", "b", "c"))
        depth = trial.suggest_categorical("unfreeze_depth", (0, 1, 2, 3))
        trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        study.tell(index, (0.8 if name == best else 0.6) + 0.02 * depth)
        proposed.append(name)
    return proposed[1:]


@pytest.mark.parametrize("best", ["a", "b", "c"])
def test_most_proposals_take_the_backbone_that_the_probes_favour(best: str) -> None:
    proposed = with_probes(best)

    assert proposed[0] == best
    assert proposed.count(best) >= 2 * len(proposed) / 3  # uniform draws: a third


def test_probes_unfreeze_nothing_also_where_the_space_has_no_such_choice() -> None:
    config = {"learning_rate": 1e-2, "regime": "linear_probe", "unfreeze_depth": 0}
    probes = [Probe(config=config, score=0.7, loss=1.0, seconds=0.1)]
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(BEST)
    propose(study, 0)
    study.tell(0, 0.8)
    study.sampler = load_searcher("guided")(
        Draw(seed=1, study_seed=0, index=1, num_startup=10, probes=probes)
    )

    trial = study.ask()
    space(trial)

    assert trial.params["regime"] in ("finetune", "linear_probe")


def test_steps_have_the_width_that_the_space_states() -> None:
    def spread_of(**widths: float) -> float:
        rng = np.random.default_rng(0)
        plan = Plan({"learning_rate": 1e-3}, rng, changed=1.0, widths=widths)
        places = [to_unit(plan.value("learning_rate", RATES), RATES) for _ in range(400)]
        return float(np.std(places))

    assert spread_of(learning_rate=0.05) == pytest.approx(0.05, rel=0.15)
    assert spread_of() > 0.15
