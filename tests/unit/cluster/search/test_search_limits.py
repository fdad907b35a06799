"""Searches with several metrics, limits, patience, earlier studies to start from, and widened spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cluster.schedulers import load_scheduler
from cluster.search.search import DONE, Search
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.search_choice import choose_search
from cluster.study.space_probe import space_differences
from cluster.study.warm_start import find_warm_starts, fit_params, likeness
from contract.messages import Outcome, Reason, State
from tests.driven_search import LOST, METRIC, Study, report, run_all, run_lease, space, take


def end(search: Search, value: float) -> None:
    lease = take(search)
    search.receive([report(lease, 1, metrics={"val_accuracy": value}, outcome=Outcome.COMPLETE)])
    search.lease_ended(lease)


def test_two_metrics_give_optunas_pareto_front(study: Study) -> None:
    settings: dict[str, Any] = {
        "metrics": ["val_accuracy", "epoch_seconds"],
        "directions": ["maximize", "minimize"],
        "scheduler": load_scheduler("none"),
        "num_trials": 8,
    }
    points = [(0.9, 9.0), (0.5, 1.0), (0.4, 5.0), (0.8, 3.0), (0.7, 4.0), (0.95, 8.0)]
    for accuracy, seconds in points:
        search = study.search(**settings)  # a new driver each time
        lease = take(search)
        metrics = {"val_accuracy": accuracy, "epoch_seconds": seconds}
        search.receive([report(lease, 1, metrics=metrics, outcome=Outcome.COMPLETE)])

    front = optuna.load_study(study_name="s", storage=study.url).best_trials

    assert sorted(trial.number for trial in front) == [1, 3, 5]
    assert search.best() == (5, 0.95)


def test_a_missing_second_metric_is_a_failure_that_names_it(study: Study) -> None:
    search = study.search(metrics=["val_accuracy", "speed"], directions=["maximize", "maximize"])

    search.receive([report(take(search), 1)])

    assert "no speed in the report" in study.optuna_trials()[0].user_attrs["traceback"]


def test_several_metrics_and_early_stopping_are_refused_together() -> None:
    several = "val_accuracy,images_per_second"

    with pytest.raises(ValueError, match="use --scheduler none"):
        StudyConfig(space="demo", metric=several, scheduler="asha")

    config = StudyConfig(space="demo", metric="val_accuracy, val_loss")
    assert config.directions == ("maximize", "minimize")
    assert choose_search(config, num_trials=12, before={}).scheduler == "none"


def test_a_worker_may_find_a_trial_infeasible(study: Study) -> None:
    search = study.search(num_trials=2)
    lease = take(search)

    over = report(lease, 0, metrics={}, outcome=Outcome.INFEASIBLE, limit="9 parameters, limit 6", excess=0.5)
    decision = search.receive([over])[0]

    trial = study.optuna_trials()[0]
    assert decision.outcome is Outcome.INFEASIBLE
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"infeasible": 0.5})
    assert trial.user_attrs["reason"] == "9 parameters, limit 6"
    assert study.search(num_trials=2).counts()[State.INFEASIBLE] == 1


def test_infeasible_trials_turn_the_sampler_away(study: Study) -> None:
    search = study.search(num_trials=40, scheduler=load_scheduler("none"))
    depths = []
    for _ in range(40):
        lease = take(search)
        depths.append(lease.trials[0].config.get("unfreeze_depth", 0))
        if depths[-1] >= 2:
            ending = {"outcome": Outcome.INFEASIBLE, "limit": "too large", "excess": depths[-1]}
            changes = {"metrics": {}} | ending
        else:
            changes = {"outcome": Outcome.COMPLETE}
        search.receive([report(lease, 1, **changes)])

    assert sum(depth >= 2 for depth in depths[-20:]) < sum(depth >= 2 for depth in depths[:20])


def test_patience_stops_a_study_that_no_longer_gains_and_more_patience_goes_on(study: Study) -> None:
    search = study.search(patience=3)
    for value in (0.5, 0.6, 0.4, 0.6):
        end(search, value)
    before = search.out_of_gain
    search = study.search(patience=3)  # killed: the count is rebuilt
    end(search, 0.1)

    assert not before
    assert search.out_of_gain
    assert search.next_lease() is DONE
    assert not search.finished
    assert study.search(patience=3).next_lease() is DONE
    assert take(study.search(patience=4)).trials[0].trial == 5


def test_a_crash_is_remembered_although_the_driver_dies_before_the_next_attempt(study: Study) -> None:
    search = study.search(num_trials=1)
    search.lease_ended(take(search), LOST)

    attrs = study.optuna_trials()[0].user_attrs

    assert attrs["crashes"] == 1


def test_crashes_count_only_as_long_as_a_trial_comes_no_further(study: Study) -> None:
    search = study.search(num_trials=1, scheduler=load_scheduler("none"))
    for epoch in range(1, 9):
        lease = take(search)
        search.receive([report(lease, epoch)])
        search.lease_ended(lease, LOST)

    assert search.counts()[State.FAILED] == 0
    assert run_lease(search, take(search)) == "complete"


def test_five_trials_out_of_memory_in_a_row_stop_the_study(study: Study) -> None:
    search = study.search()
    for _ in range(5):
        search.receive(
            [
                report(
                    take(search),
                    0,
                    metrics={},
                    outcome=Outcome.FAILED,
                    reason=Reason.OUT_OF_MEMORY,
                    traceback="x\nOOM",
                )
            ]
        )

    assert search.failure is not None
    assert "out of memory: OOM" in search.failure


def test_a_widened_space_keeps_earlier_trials_and_uses_the_new_choices(study: Study) -> None:
    def wider(trial: optuna.Trial) -> dict[str, Any]:
        trial.suggest_float("learning_rate", 1e-6, 1.0, log=True)
        if trial.suggest_categorical("regime", ("finetune", "linear_probe", "gradual")) == "finetune":
            trial.suggest_int("unfreeze_depth", 1, 9)
        return {"optimizer": "adamw"}

    run_all(study.search(num_trials=8))
    before = [trial.params for trial in study.optuna_trials()]

    search = study.search(num_trials=40, space=wider)
    run_all(search)

    trials = study.optuna_trials()
    assert [trial.params for trial in trials[:8]] == before
    assert {trial.params["regime"] for trial in trials} == {"finetune", "linear_probe", "gradual"}
    assert search.counts()[State.FAILED] == 0


def test_a_narrowed_space_is_refused_with_the_trial_that_lies_outside(study: Study) -> None:
    def narrower(trial: optuna.Trial) -> dict[str, Any]:
        trial.suggest_float("learning_rate", 0.09, 1e-1, log=True)
        return {}

    run_all(study.search(num_trials=4))

    with pytest.raises(ValueError, match=r"has learning_rate .* which the space no longer holds"):
        study.search(space=narrower)


def row(name: str, values: str, condition: str = "") -> dict[str, str]:
    return {"name": name, "values": values, "condition": condition}


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (row("rate", "0.001 … 0.1 (log)"), row("rate", "0.0001 … 0.1 (log)"), ""),
        (row("kind", "a, b"), row("kind", "a, c, b"), ""),
        (
            row("rate", "0.001 … 0.1 (log)"),
            row("rate", "0.01 … 0.1 (log)"),
            "rate (0.001 … 0.1 (log) -> 0.01",
        ),
        (row("rate", "0.001 … 0.1 (log)"), row("rate", "0.001 … 0.1"), "rate ("),
        (row("kind", "a, b"), row("kind", "a"), "kind (a, b -> a)"),
        (row("kind", "a, b"), row("other", "a, b"), "kind (a, b -> not searched)"),
        (row("kind", "a, b"), row("kind", "a, b", "x = 1"), "kind (a, b -> a, b, if x = 1)"),
    ],
)
def test_only_wider_tables_are_the_same_study(before: Any, now: Any, found: str) -> None:
    differences = space_differences({"space_table": [before]}, {"space_table": [now]})

    assert "; ".join(differences).startswith(found)
    assert bool(differences) == bool(found)


def test_a_changed_fixed_value_is_another_study() -> None:
    differences = space_differences({"space_fixed": {"momentum": 0.9}}, {"space_fixed": {"momentum": 0.8}})

    assert differences == ["momentum (0.9 -> 0.8)"]


def make_past(runs_dir: Path, name: str, *, classes: int, num_train: int) -> None:
    """A finished study for --warm-start."""
    (runs_dir / name).mkdir(parents=True)
    past = Study(runs_dir / name)
    run_all(past.search(num_trials=8, seed=len(name)))
    assert past.records is not None
    past.records.close()
    data = {"contents": name, "classes": [str(n) for n in range(classes)], "num_train": num_train}
    info = {"study": "s", "metric": "val_accuracy", "direction": "maximize", "directions": ["maximize"]}
    (runs_dir / name / "study.json").write_text(json.dumps(info | {"data": data, "storage": past.url}))


def test_a_warm_start_takes_the_best_of_the_likest_study_first(tmp_path: Path) -> None:
    make_past(tmp_path, "alike", classes=5, num_train=900)
    make_past(tmp_path, "different", classes=1000, num_train=90_000)
    here = {"contents": "new", "classes": list("abcde"), "num_train": 1000}

    found = find_warm_starts(["different", "alike"], runs_dir=tmp_path, data=here, space=space, num_trials=24)

    past = Study(tmp_path / "alike").optuna_trials()
    best = max((t for t in past if t.value is not None), key=lambda t: t.value or 0)
    assert len(found) == 3
    assert found[0]["params"] == best.params
    again = find_warm_starts(
        ["alike"], runs_dir=tmp_path, data=here, space=space, num_trials=24, published=[best.params]
    )
    assert best.params not in [one["params"] for one in again]
    assert find_warm_starts([], runs_dir=tmp_path, data=here, space=space, num_trials=24) == []
    with pytest.raises(ValueError, match="--warm-start nowhere: no such study"):
        find_warm_starts(["nowhere"], runs_dir=tmp_path, data=here, space=space, num_trials=24)


def test_what_the_space_cannot_hold_is_no_warm_start() -> None:
    good = {"learning_rate": 0.01, "regime": "linear_probe", "unknown": 3}

    assert fit_params(space, good) == {"learning_rate": 0.01, "regime": "linear_probe"}
    assert fit_params(space, good | {"learning_rate": 5.0}) is None
    assert fit_params(space, good | {"regime": "finetune"}) is None


def test_the_same_images_are_most_alike() -> None:
    one = {"contents": "a", "classes": list("ab"), "num_train": 100}

    assert likeness(one, one) == 1.0
    assert 0.85 < likeness(one, one | {"contents": "b"}) < 1.0
    assert likeness(one, one | {"contents": "b", "num_train": 10_000}) < 0.2


@pytest.mark.parametrize("searcher", ["random", "qmc"])
def test_a_warm_start_costs_its_recipe_trials_at_most(tmp_path: Path, searcher: str) -> None:
    """Every configuration that a cold start would have tried is tried, too."""
    bad = {"learning_rate": 0.1, "regime": "linear_probe"}
    studies = []
    for name, recipes in (("cold", []), ("warm", [("trial 3 of s", bad)])):
        (tmp_path / name).mkdir()
        one = Study(tmp_path / name)
        sampler = load_searcher(searcher)
        run_all(one.search(num_trials=8 + len(recipes), warm_starts=recipes, make_sampler=sampler))
        studies.append([trial.params for trial in one.optuna_trials()])
        assert one.records is not None
        one.records.close()

    cold, warm = studies
    assert warm[0] == bad
    assert warm[1:] == cold


def test_a_tie_is_no_gain_live_and_when_it_is_replayed(study: Study) -> None:
    search = study.search(patience=1)
    earlier, later = take(search), take(search)
    ending: dict[str, Any] = {"metrics": {METRIC: 0.5}, "outcome": Outcome.COMPLETE}
    search.receive([report(later, 1, **ending)])
    search.receive([report(earlier, 1, **ending)])

    assert search.out_of_gain
    assert study.search(patience=1).out_of_gain


def test_reports_of_one_moment_are_replayed_in_the_order_they_came(study: Study) -> None:
    search = study.search(patience=1, now=lambda: 1_000.0)
    first, second = take(search), take(search)
    search.receive([report(second, 1, metrics={METRIC: 0.9})])
    search.receive([report(first, 1, metrics={METRIC: 0.1}, outcome=Outcome.COMPLETE)])

    assert search.out_of_gain
    assert study.search(patience=1).out_of_gain


def test_a_replayed_epoch_keeps_its_place_in_the_order(study: Study) -> None:
    search = study.search(patience=2)
    lease, other = take(search), take(search)
    search.receive([report(lease, 1, metrics={METRIC: 0.9})])
    search.receive([report(other, 1, metrics={METRIC: 0.1}, outcome=Outcome.COMPLETE)])
    search.lease_ended(lease, LOST)
    again = take(search)
    search.receive([report(again, 1, metrics={METRIC: 0.9})])
    third = take(search)
    search.receive([report(third, 1, metrics={METRIC: 0.2}, outcome=Outcome.COMPLETE)])

    assert search.out_of_gain
    assert study.search(patience=2).out_of_gain
