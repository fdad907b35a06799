"""Schedulers and random search on simulated learning curves: how good is the best trial found at equal cost?

Curves follow a power law towards an asymptote; their speed is independent of where they end, so early epochs
mislead. `python -m benchmarks schedulers` prints the table that stands in RESULTS.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import Trial

from cluster.leases import Lease, Report
from cluster.records import Records
from cluster.schedulers import load_scheduler
from cluster.search import Search
from cluster.searchers import load_searcher

MAX_EPOCHS = 27
NOISE = 0.005
"""Standard deviation of an epoch's accuracy: that of 1,000 validation images at 97 %."""


def space(trial: Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_float("dropout", 0.0, 0.6)
    trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    return {}


class Curves:
    """A made-up task: every configuration has one noisy curve, the same whoever asks."""

    def __init__(self, seed: int) -> None:
        dice = np.random.default_rng(seed)
        self.seed = seed
        self.peak = dice.uniform((-4.0, 0.1, -5.0), (-2.0, 0.5, -3.0))
        self.widths = dice.uniform((0.8, 0.3, 1.5), (1.6, 0.8, 4.0))

    def final(self, config: Mapping[str, Any]) -> float:
        """Accuracy that it tends to, without noise."""
        return 0.98 - 0.25 * (1 - math.exp(-self._distance(config)))

    def accuracy(self, config: Mapping[str, Any], epoch: int) -> float:
        dice = np.random.default_rng([self.seed, *self._identity(config)])
        # From where and how fast it comes there has nothing to do with where it ends.
        lag, speed = dice.uniform(0.1, 0.4), math.exp(dice.normal(0.1, 0.4))
        noise = dice.normal(0, NOISE, MAX_EPOCHS)[epoch - 1]
        return self.final(config) - float(lag * epoch**-speed) + float(noise)

    def _distance(self, config: Mapping[str, Any]) -> float:
        point = (math.log10(config["learning_rate"]), config["dropout"], math.log10(config["weight_decay"]))
        return float((((np.array(point) - self.peak) / self.widths) ** 2).sum())

    def _identity(self, config: Mapping[str, Any]) -> list[int]:
        return [int(1e6 * abs(value)) for value in (config["dropout"], math.log(config["learning_rate"]))]


def simulate(scheduler: str, *, searcher: str, budget: int, slots: int, seed: int) -> dict[str, float]:
    """Spend so many epochs on `slots` workers, an epoch a tick; the regret of the trial one would choose."""
    curves = Curves(seed)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'study.db'}"
        records = Records(url, study="s", directions=["maximize"], metric="val_accuracy", new=True)
        search = Search(
            records,
            space=space,
            make_sampler=load_searcher(searcher),
            scheduler=load_scheduler(scheduler),
            num_trials=budget,
            seed=seed,
            metrics=["val_accuracy"],
            max_epochs=MAX_EPOCHS,
        )
        spent = _spend(search, curves, budget=budget, slots=slots, seed=seed)
        chosen = _choose(search)
        regret = 0.98 - (0.73 if chosen is None else curves.final(search.trials[chosen].config))
        counts = search.counts()
        records.close()
    return {"regret": regret, "trials": len(search.trials), "complete": counts["complete"], "epochs": spent}


def _spend(search: Search, curves: Curves, *, budget: int, slots: int, seed: int) -> int:
    """Workers take different times for an epoch, so results arrive out of order, but the same each time."""
    dice = np.random.default_rng(seed)
    speeds = dice.uniform(0.7, 1.3, slots)
    queue: list[tuple[float, int, Lease | None, int]] = [(0.0, slot, None, 0) for slot in range(slots)]
    spent = 0
    while queue and spent < budget:
        now, slot, lease, epoch = heapq.heappop(queue)
        if lease is not None:
            spent += 1
            if _report(search, curves, lease, epoch) == "continue":
                heapq.heappush(queue, (now + speeds[slot], slot, lease, epoch + 1))
                continue
            search.lease_ended(lease)
        following = search.next_lease()
        if isinstance(following, Lease):
            first = following.trials[0].done_epochs + 1
            heapq.heappush(queue, (now + speeds[slot], slot, following, first))
        elif following is None:
            heapq.heappush(queue, (now + 0.5, slot, None, 0))
    return spent


def _report(search: Search, curves: Curves, lease: Lease, epoch: int) -> str:
    leased = lease.trials[0]
    metrics = {"val_accuracy": curves.accuracy(leased.config, epoch)}
    outcome = "complete" if epoch == MAX_EPOCHS else None
    report = Report(trial=leased.trial, attempt=leased.attempt, epoch=epoch, metrics=metrics, outcome=outcome)
    return search.receive([report])[0].action


def _choose(search: Search) -> int | None:
    """The trial one would take: the highest value measured, the leaderboard's first."""
    best = search.best()
    return None if best is None else best[0]


def run(schedulers: Sequence[str], *, seeds: int, budget: int, slots: int, searcher: str) -> dict[str, Any]:
    """Mean regret of every scheduler over the seeds, with its standard error and quartiles."""
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
    """Paired by seed: by how much the first's regret is lower, with its standard error."""
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
