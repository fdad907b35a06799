"""Probes of a search without Ray: which are proposed, when they are handed out, and what survives a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster.search.probes import ProbePlan, propose_policies, propose_probes
from cluster.search.search import DONE, Search
from cluster.searchers import Draw, Probe, load_searcher
from contract.lease_errors import LeaseError
from contract.messages import Lease
from contract.probes import ProbeReport
from contract.trial_config import make_trial_config
from search_spaces import load_space
from tests.driven_search import LOST, METRIC, Study, outcomes, run_lease, take
from trainables.batch_groups import batch_group

Space = Callable[[optuna.Trial], Mapping[str, Any]]
BACKBONES = ("lite0", "lite1")
RECIPE = {"backbone": "lite0", "learning_rate": 0.003, "unfreeze_depth": 2}


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_categorical("backbone", BACKBONES)
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_categorical("unfreeze_depth", (0, 1, 2))
    trial.suggest_categorical("policy", ("none", "light", "strong"))
    return {"regime": "finetune"}


def published(name: str, *, max_epochs: int = 4, backbones: tuple[str, ...] = ()) -> Space:
    loaded = load_space(name)
    return lambda trial: loaded.propose(trial, backbones=backbones or loaded.backbones, max_epochs=max_epochs)


def propose(space: Space, number: int = 24, *, seed: int = 3) -> ProbePlan:
    return propose_probes(
        space, seed, number, max_epochs=4, can_probe=lambda config: batch_group(config) is not None
    )


def probing(study: Study, **changes: Any) -> Search:
    return study.search(**{"space": space, "group_of": batch_group, "num_probes": 12, **changes})


def judge(lease: Lease, **changes: Any) -> list[ProbeReport]:
    """A made-up head: better at small rates, and better still on lite1 and with stronger augmentation."""
    reports = []
    for leased in lease.probes:
        config = leased.config
        value = 0.5 - config["learning_rate"] + 0.1 * (config["backbone"] == "lite1")
        value += 0.05 * len(config["policy"])
        metrics = {METRIC: round(value, 6), "val_loss": 1 - value}
        values: dict[str, Any] = {"metrics": metrics, "seconds": 0.2}
        reports.append(ProbeReport(probe=leased.probe, **values | changes))
    return reports


def run_probes(search: Search, lease: Lease) -> None:
    search.receive_probes(judge(lease))
    search.lease_ended(lease)


def run_everything(search: Search) -> list[list[int]]:
    """Run all that is left on one slot; returns the numbers in each lease of probes."""
    probes = []
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        if lease.probes:
            probes.append([leased.probe for leased in lease.probes])
            run_probes(search, lease)
        else:
            run_lease(search, lease)
    return probes


def rows(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{path}/study.db?mode=ro", uri=True) as connection:
        query = "SELECT probe, config, metrics, seconds, error FROM probes ORDER BY probe"
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("name", ["demo", "finetune", "bit", "regimes", "linear_probe", "resnet50"])
def test_every_probe_is_a_head_on_plain_frozen_features_and_none_is_there_twice(name: str) -> None:
    plan = propose(published(name))

    assert len(plan.heads) == 18 + (6 if not plan.policies else 0)
    assert len({json.dumps(head, sort_keys=True) for head in plan.heads}) == len(plan.heads)
    for head in plan.heads:
        config = make_trial_config(head)
        assert (config.unfreeze_depth, config.policy, config.mixup_alpha, config.mix) == (
            0,
            "none",
            0,
            "none",
        )
        assert config.max_epochs == 4
        assert batch_group(head) is not None


def test_the_same_seed_proposes_the_same_probes_and_another_one_others() -> None:
    assert propose(published("finetune")) == propose(published("finetune"))
    assert propose(published("finetune")) != propose(published("finetune"), seed=4)


def test_backbones_take_turns() -> None:
    plan = propose(published("finetune"))

    backbones = [head["backbone"] for head in plan.heads]

    assert len(set(backbones[:3])) == 3
    assert backbones == backbones[:3] * 6


@pytest.mark.parametrize(
    ("name", "regime"), [("demo", "finetune"), ("finetune", "linear_probe"), ("bit", "bit")]
)
def test_a_probe_has_the_regime_of_the_spaces_own_frozen_heads(name: str, regime: str) -> None:
    assert {head["regime"] for head in propose(published(name)).heads} == {regime}


def test_a_space_without_frozen_heads_of_its_own_is_probed_all_the_same() -> None:
    plan = propose(published("efficientnet_b3"))

    assert len(plan.heads) == 18
    assert {head["regime"] for head in plan.heads} == {"linear_probe"}


def only(**fixed: Any) -> Space:
    def propose(trial: optuna.Trial) -> dict[str, Any]:
        trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        return {"backbone": "lite0", "unfreeze_depth": "all", "regime": "finetune", **fixed}

    return propose


@pytest.mark.parametrize(
    ("fixed", "number"),
    [
        ({}, 24),
        ({"mixup_alpha": 0.4}, 24),
        ({"regime": "scratch"}, 0),
        ({"regime": "knn", "unfreeze_depth": 0}, 0),
        ({"head_pooling": "flatten"}, 0),
    ],
)
def test_a_space_whose_regimes_have_no_frozen_head_has_no_probes(fixed: dict[str, Any], number: int) -> None:
    assert len(propose(only(**fixed)).heads) == number


def test_heads_that_the_caller_refuses_are_no_probes() -> None:
    plan = propose_probes(space, 1, 12, max_epochs=4, can_probe=lambda head: head["backbone"] == "lite1")

    assert {head["backbone"] for head in plan.heads} == {"lite1"}


def test_the_best_heads_are_tried_again_under_each_policy_up_to_a_quarter() -> None:
    plan = propose(space, 12)
    best = [{"backbone": "lite1", "policy": "none"}, {"backbone": "lite0", "policy": "none"}]

    again = propose_policies(plan, best)

    assert sorted(plan.policies) == ["light", "strong"]
    assert [(head["backbone"], head["policy"]) for head in again] == [
        *(("lite1", policy) for policy in plan.policies),
        ("lite0", plan.policies[0]),
    ]


def test_on_one_slot_probes_come_before_everything_and_recipes_before_proposals(study: Study) -> None:
    search = probing(study, recipes=[("published", RECIPE)])

    leases = []
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        leases.append(lease)
        if lease.probes:
            run_probes(search, lease)
        else:
            run_lease(search, lease)

    kinds = ["probes" if lease.probes else "trials" for lease in leases]
    first_round = [leased.probe for lease in leases[:2] for leased in lease.probes]
    assert kinds == ["probes"] * kinds.count("probes") + ["trials"] * kinds.count("trials")
    assert sorted(first_round) == list(range(9))
    assert {leased.config["backbone"] for leased in leases[0].probes} == {"lite0"} or {
        leased.config["backbone"] for leased in leases[0].probes
    } == {"lite1"}
    assert len(rows(study.path)) == 12
    assert search.probes.num_done == search.probes.total == 12
    assert search.finished


def test_probes_count_neither_as_trials_nor_for_their_numbers(study: Study) -> None:
    search = probing(study, num_trials=5)

    run_everything(search)

    assert sorted(search.trials) == list(range(5))
    assert len(study.optuna_trials()) == 5


def test_recipes_may_run_beside_probes_and_proposals_wait_for_them(study: Study) -> None:
    search = probing(study, recipes=[("published", RECIPE)])

    probes = [take(search), take(search)]
    recipe = take(search)
    waiting = search.next_lease()
    for lease in probes:
        run_probes(search, lease)
    policies = take(search)

    assert all(lease.probes for lease in probes)
    assert search.trials[recipe.trials[0].trial].is_recipe
    assert waiting is None
    assert {leased.config["policy"] for leased in policies.probes} <= {"light", "strong"}


def test_the_second_round_takes_the_best_heads_of_the_first(study: Study) -> None:
    search = probing(study)

    run_everything(search)

    configs = [json.loads(config) for _, config, *_ in rows(study.path)]
    scores = {n: json.loads(metrics)[METRIC] for n, _, metrics, *_ in rows(study.path)}
    best = sorted(range(9), key=lambda n: -scores[n])
    again = [{**config, "policy": "none"} for config in configs[9:]]
    assert again == [configs[best[0]], configs[best[0]], configs[best[1]]]
    assert [config["policy"] for config in configs[:9]] == ["none"] * 9


def test_a_searcher_reads_what_the_probes_measured(study: Study) -> None:
    draws: list[Draw] = []

    def make_sampler(draw: Draw) -> optuna.samplers.BaseSampler:
        draws.append(draw)
        return load_searcher("random")(draw)

    run_everything(probing(study, make_sampler=make_sampler))
    run_everything(probing(study, make_sampler=make_sampler, num_trials=13))

    recorded = [(json.loads(config), json.loads(metrics)) for _, config, metrics, *_ in rows(study.path)]
    expected = [
        Probe(config=config, score=metrics[METRIC], loss=metrics["val_loss"], seconds=0.2)
        for config, metrics in recorded
    ]
    assert len(expected) == 12
    assert all(draw.probes == expected for draw in draws)
    assert len(draws) >= 13


def test_a_score_is_higher_where_a_minimized_metric_is_lower(study: Study) -> None:
    search = probing(study, metrics=["val_loss"], directions=["minimize"])
    run_probes(search, take(search))

    assert all(probe.score == -probe.loss for probe in search.probes.taught())


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_search_killed_among_its_probes_ends_like_one_that_never_was(
    study: Study, tmp_path: Path, kept: int
) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Study(tmp_path / "undisturbed")
    run_everything(probing(undisturbed))

    search = probing(study)
    lease = take(search)
    search.receive_probes(judge(lease)[:kept])
    leases = run_everything(probing(study))  # kill -9: nothing is told, nothing is closed

    assert sorted(n for lease in leases for n in lease) == sorted(
        set(range(12)) - {leased.probe for leased in lease.probes[:kept]}
    )
    assert rows(study.path) == rows(tmp_path / "undisturbed")
    assert outcomes(study) == outcomes(undisturbed)
    assert undisturbed.records is not None
    undisturbed.records.close()


def test_a_finished_study_runs_no_probe_again_nor_do_more_trials(study: Study) -> None:
    run_everything(probing(study))

    again = probing(study)
    assert again.finished
    assert again.next_lease() is DONE
    assert run_everything(probing(study, num_trials=14)) == []


def test_a_search_that_is_stopped_leaves_its_probes_to_the_next_run(study: Study) -> None:
    search = probing(study)
    lease = take(search)
    search.receive_probes(judge(lease)[:1])
    search.stop()
    search.lease_ended(lease)

    assert not search.goes_on(lease)
    assert search.next_lease() is DONE
    assert len(rows(study.path)) == 1
    assert len(take(probing(study)).probes) == len(lease.probes) - 1


def test_probes_lost_with_their_worker_are_tried_again_each_alone(study: Study) -> None:
    search = probing(study)
    lease = take(search)
    search.receive_probes(judge(lease)[:1])

    search.lease_ended(lease, LOST)
    again = [take(search) for _ in lease.probes]

    alone = [[leased.probe for leased in one.probes] for one in again]
    assert all([leased.probe] in alone for leased in lease.probes[1:])


def test_a_probe_that_kills_its_worker_twice_is_given_up_with_the_error(study: Study) -> None:
    search = probing(study)
    killer = take(search).probes[0].probe
    search = probing(study)
    lease = take(search)
    search.lease_ended(lease, LOST)
    while lease := take(search):
        if not lease.probes:
            break
        if lease.probes[0].probe == killer:
            search.lease_ended(lease, LOST)
        else:
            run_probes(search, lease)

    [row] = [row for row in rows(study.path) if row[4] is not None]
    assert (row[0], row[2], row[4]) == (killer, None, "the node died")
    assert len(search.probes.taught()) == 11


def test_a_probe_that_failed_is_recorded_and_teaches_nothing(study: Study) -> None:
    search = probing(study)
    lease = take(search)

    search.receive_probes(judge(lease, metrics={}, error="Diverged: the loss at update 3 is nan"))

    assert search.probes.taught() == []
    assert [row[4] for row in rows(study.path)] == ["Diverged: the loss at update 3 is nan"] * len(
        lease.probes
    )


def test_a_lease_goes_on_until_each_of_its_probes_has_a_result(study: Study) -> None:
    search = probing(study)
    lease = take(search)
    search.receive_probes(judge(lease)[:1])
    before = search.goes_on(lease)
    search.receive_probes(judge(lease))

    assert before
    assert not search.goes_on(lease)
    assert len(rows(study.path)) == len(lease.probes)


def test_an_error_that_would_come_again_gives_probes_up_at_the_second_time(study: Study) -> None:
    search = probing(study, num_probes=1)
    error = LeaseError(message="no such store", transient=False)

    search.lease_ended(take(search), error)
    search.lease_ended(take(search), error)

    assert [row[4] for row in rows(study.path)] == ["no such store"]
    assert take(search).trials


def test_where_nothing_will_be_proposed_nothing_is_probed(study: Study) -> None:
    search = probing(study, num_trials=1, recipes=[("published", RECIPE)])

    run_lease(search, take(search))

    assert search.next_lease() is DONE
    assert search.finished


def test_trials_of_several_workers_have_no_probes(study: Study) -> None:
    search = probing(study, group_of=lambda _: None)

    assert search.probes.total == 0
    assert take(search).trials


def test_a_report_after_the_end_changes_nothing(study: Study) -> None:
    search = probing(study, recipes=[("published", RECIPE)])
    lease = take(search)
    run_probes(search, lease)
    before = rows(study.path)

    search.receive_probes(judge(lease, metrics={METRIC: 0.0}))

    assert rows(study.path) == before
