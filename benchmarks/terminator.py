"""What rules that end a search early would save and cost, replayed on the recorded table of real trials.

    python -m benchmarks terminator --seeds 20

Every replay runs all its trials on two slots with the searcher and scheduler that tune.py chooses; each rule
is asked after every trial's end, and what validation would choose at the moment it says stop is compared with
what the whole search hands over. Cost is in points of test accuracy (positive: lost), with its standard error
over seeds; saved is the share of the search's seconds. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import optuna
from optuna.terminator import EMMREvaluator, RegretBoundEvaluator, StaticErrorEvaluator, Terminator
from optuna.trial import TrialState, create_trial

from benchmarks.quality.methods import METHODS
from benchmarks.quality.replay import World, replay
from benchmarks.quality.rows import BACKBONES
from benchmarks.quality.splits import SETS
from benchmarks.quality.table import load_table, recorded_rows
from cluster.search.search import Search
from contract.messages import Outcome

METHOD = "now"
SLOTS = 2
LEAST_TRIALS = 10
"""Ended trials before which no rule stops a search."""

Rule = Callable[[Search, World], bool]


def standard_error(search: Search, world: World) -> float:
    """Standard error of the best complete trial's accuracy on the validation images."""
    best = search.best_complete()
    assert best is not None
    return float((best[1] * (1 - best[1]) / len(world.table.val_labels)) ** 0.5)


class Patience:
    """Stops once so many trials have ended since a complete one was better by `errors` standard errors."""

    def __init__(self, patience: int, *, errors: float = 0.0) -> None:
        self._patience, self._errors = patience, errors
        self._best, self._since = -1.0, 0

    def __call__(self, search: Search, world: World) -> bool:
        best = search.best_complete()
        self._since += 1
        if best is not None and best[1] > self._best + self._errors * standard_error(search, world):
            self._best, self._since = best[1], 0
        return self._since >= self._patience


class OptunaRule:
    """Optuna's terminator on the complete trials, with the validation set's standard error as its error."""

    def __init__(self, evaluator: type[RegretBoundEvaluator] | type[EMMREvaluator]) -> None:
        self._evaluator = evaluator

    def __call__(self, search: Search, world: World) -> bool:
        study = optuna.create_study(direction="maximize")
        for trial in search.trials.values():
            value = search.kept_value(trial.number)
            if trial.outcome is Outcome.COMPLETE and value is not None:
                params = {name: trial.config[name] for name in world.distributions}
                study.add_trial(
                    create_trial(
                        params=params,
                        distributions=dict(world.distributions),
                        value=value,
                        state=TrialState.COMPLETE,
                    )
                )
        if len(study.trials) < LEAST_TRIALS // 2:
            return False
        terminator = Terminator(
            improvement_evaluator=self._evaluator(),
            error_evaluator=StaticErrorEvaluator(standard_error(search, world)),
            min_n_trials=1,
        )
        return terminator.should_terminate(study)


RULES: Mapping[str, Callable[[], Rule]] = {
    **{f"patience {n}": partial(Patience, n) for n in (5, 10, 20)},
    **{f"patience {n}, gains above the noise": partial(Patience, n, errors=1.0) for n in (5, 10, 20)},
    "optuna, EMMR": partial(OptunaRule, EMMREvaluator),
    "optuna, regret bound": partial(OptunaRule, RegretBoundEvaluator),
}


@cache
def make_world(name: str) -> World:
    rows = recorded_rows([load_table(one) for one in SETS])
    return World(load_table(name), rows, backbones=tuple(BACKBONES))


def run_one(name: str, seed: int, *, num_trials: int, rules: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Replay one study: points of test accuracy that each rule cost, and the share of seconds it saved."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    world, method = make_world(name), METHODS[METHOD]
    watching = {rule: RULES[rule]() for rule in rules}
    stopped: dict[str, tuple[float, float]] = {}

    def on_ended(search: Search, now: float) -> None:
        ended = [trial for trial in search.trials.values() if trial.outcome is not None]
        complete = [trial for trial in ended if trial.outcome is Outcome.COMPLETE]
        for rule, says_stop in watching.items():
            if rule in stopped or not says_stop(search, world):
                continue
            if len(ended) >= LEAST_TRIALS and complete:
                rows = [world.number_of_config(trial.config) for trial in complete]
                row = world.table.choose(rows, method.rule, seed=seed, ties=method.ties)
                stopped[rule] = (world.table.test_of(row, method.rule), now)

    whole = replay(world, method, num_trials=num_trials, slots=SLOTS, seed=seed, on_ended=on_ended)
    ended_with = (whole.test_accuracy, whole.seconds)
    return {
        rule: (100 * (whole.test_accuracy - test), 1 - now / whole.seconds)
        for rule in rules
        for test, now in [stopped.get(rule, ended_with)]
    }


def summarize(rules: Sequence[str], found: Sequence[Mapping[str, tuple[float, float]]], seeds: int) -> Any:
    """Mean cost over sets, its standard error over seeds, the mean share saved, and how often it stopped."""
    rows = []
    for rule in rules:
        costs = np.array([one[rule][0] for one in found]).reshape(-1, seeds)
        saved = [one[rule][1] for one in found]
        by_seed = costs.mean(axis=0)
        error = float(by_seed.std(ddof=1) / seeds**0.5) if seeds > 1 else 0.0
        rows.append(
            {
                "rule": rule,
                "cost": round(float(by_seed.mean()), 3),
                "standard_error": round(error, 3),
                "by_set": {
                    name: round(float(one), 2) for name, one in zip(SETS, costs.mean(axis=1), strict=True)
                },
                "saved": round(statistics.fmean(saved), 3),
                "stopped": round(sum(share > 0 for share in saved) / len(saved), 3),
            }
        )
    return rows


def print_rows(num_trials: int, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{num_trials} trials on {SLOTS} slots\n")
    print("| rule | cost (points) | ± | " + " | ".join(SETS) + " | seconds saved | stopped |")
    print("|---" * (len(SETS) + 5) + "|")
    for row in rows:
        sets = " | ".join(f"{row['by_set'][name]:.2f}" for name in SETS)
        print(
            f"| {row['rule']} | {row['cost']:.2f} | {row['standard_error']:.2f} | {sets} "
            f"| {row['saved']:.0%} | {row['stopped']:.0%} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks terminator", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--processes", type=int, default=2)
    flags = parser.parse_args(argv)
    summary: dict[str, object] = {"benchmark": "terminator", "seeds": flags.seeds}
    for num_trials in flags.trials:
        jobs = [(name, seed) for name in SETS for seed in range(flags.seeds)]
        work = partial(run_one, num_trials=num_trials, rules=flags.rules)
        if flags.processes > 1:
            with multiprocessing.Pool(flags.processes) as pool:
                found = pool.starmap(work, jobs, chunksize=5)
        else:
            found = [work(*job) for job in jobs]
        rows = summarize(flags.rules, found, flags.seeds)
        print_rows(num_trials, rows)
        summary[f"{num_trials} trials"] = rows
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
