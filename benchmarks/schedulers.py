"""Schedulers and random search on simulated learning curves: how good is the best trial found at equal cost?

Curves follow a power law towards an asymptote; their speed is independent of where they end, so early epochs
mislead. `python -m benchmarks schedulers` prints the table that stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from benchmarks.simulated.learning_curves import MAX_EPOCHS, Curves
from benchmarks.simulated.workers import run_workers
from cluster.schedulers import load_scheduler
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.records import Records
from contract.messages import State
from contract.sqlite_files import sqlite_url


def space(trial: Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_float("dropout", 0.0, 0.6)
    trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    return {}


def simulate(scheduler: str, *, searcher: str, budget: int, slots: int, seed: int) -> dict[str, float]:
    """Spend `budget` epochs on `slots` workers; return the regret of the best trial, and the epochs spent."""
    curves = Curves(seed)
    with tempfile.TemporaryDirectory() as folder:
        url = sqlite_url(Path(folder) / "study.db")
        records = Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=True)
        search = Search(
            records,
            SearchSetup(
                space=space,
                make_sampler=load_searcher(searcher),
                scheduler=load_scheduler(scheduler),
                num_trials=budget,
                seed=seed,
                metrics=["val_accuracy"],
                max_epochs=MAX_EPOCHS,
            ),
        )
        spent = run_workers(search, curves, budget=budget, slots=slots, seed=seed)
        chosen = _choose(search)
        regret = 0.98 - (0.73 if chosen is None else curves.final(search.trials[chosen].config))
        counts = search.counts()
        records.close()
    return {
        "regret": regret,
        "trials": len(search.trials),
        "complete": counts[State.COMPLETE],
        "epochs": spent,
    }


def _choose(search: Search) -> int | None:
    """The trial that a user would take, with the highest value measured."""
    best = search.best()
    return None if best is None else best[0]


def run(schedulers: Sequence[str], *, seeds: int, budget: int, slots: int, searcher: str) -> dict[str, Any]:
    """Compute every scheduler's mean regret over the seeds, with its standard error and quartiles."""
    results: dict[str, Any] = {}
    for name in schedulers:
        seen = [
            simulate(name, searcher=searcher, budget=budget, slots=slots, seed=seed) for seed in range(seeds)
        ]
        regrets = [one["regret"] for one in seen]
        quartiles = statistics.quantiles(regrets, n=4)
        results[name] = {
            "mean_regret": statistics.fmean(regrets),
            "standard_error": statistics.stdev(regrets) / math.sqrt(seeds),
            "quartiles": quartiles,
            "mean_trials": statistics.fmean(one["trials"] for one in seen),
            "mean_complete": statistics.fmean(one["complete"] for one in seen),
            "regrets": regrets,
        }
    return results


def compare(results: Mapping[str, Any], first: str, second: str) -> dict[str, float]:
    """Return the second scheduler's regret minus the first's, paired by seed, with its standard error."""
    pairs = zip(results[first]["regrets"], results[second]["regrets"], strict=True)
    gains = [there - here for here, there in pairs]
    return {
        "gain": statistics.fmean(gains),
        "standard_error": statistics.stdev(gains) / math.sqrt(len(gains)),
        "share_not_worse": sum(gain >= 0 for gain in gains) / len(gains),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks schedulers", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--budget", type=int, default=270, help="epochs in all [10 full trials]")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--searcher", default="random")
    parser.add_argument(
        "--schedulers", nargs="+", default=["none", "median", "hyperband", "asha", "promotion_asha"]
    )
    flags = parser.parse_args(argv)
    results = run(
        flags.schedulers,
        seeds=flags.seeds,
        budget=flags.budget,
        slots=flags.slots,
        searcher=flags.searcher,
    )
    print("| scheduler | mean regret (points) | standard error | quartiles | trials | complete |")
    print("|---|---|---|---|---|---|")
    for name, row in sorted(results.items(), key=lambda item: item[1]["mean_regret"]):
        low, middle, high = (f"{100 * value:.2f}" for value in row["quartiles"])
        print(
            f"| {name} | {100 * row['mean_regret']:.2f} | {100 * row['standard_error']:.2f} "
            f"| {low} / {middle} / {high} | {row['mean_trials']:.0f} | {row['mean_complete']:.1f} |"
        )
    summary: dict[str, Any] = {"benchmark": "schedulers", "seeds": flags.seeds, "budget": flags.budget}
    summary["mean_regret"] = {name: round(row["mean_regret"], 5) for name, row in results.items()}
    if {"asha", "promotion_asha"} <= results.keys():
        summary["promotion_against_stopping"] = compare(results, "promotion_asha", "asha")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
