"""How good is the model that a search hands over? Replays searches on a recorded table of real trials.

The table holds what configurations of `--space demo` did on five photo sets, epoch by epoch. Regret is how
many points of test accuracy the handed-over model lacks against running every row and choosing by validation;
it may be negative, since choosing among many rows by few photos is no oracle. `python -m benchmarks
search_quality` prints the tables that stand in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import optuna

from benchmarks.quality.methods import METHODS, RIVAL
from benchmarks.quality.replay import Replayed, World, replay
from benchmarks.quality.rival import replay_rival
from benchmarks.quality.rows import BACKBONES
from benchmarks.quality.splits import SETS
from benchmarks.quality.table import KeptEpoch, load_table, recorded_rows

RULE: KeptEpoch = "last"
"""Epoch that is kept where rows are compared with one another."""
MANY_TRIALS = 10_000
"""More than the table allows: only the time ends such a study."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Studies of one size: so many trials, or as long as the search before took for so many."""

    trials: int
    slots: int
    equal_seconds: bool = False

    @property
    def name(self) -> str:
        what = f"the seconds of {self.trials} trials" if self.equal_seconds else f"{self.trials} trials"
        return f"{what} on {self.slots} slot{'s' * (self.slots > 1)}"


CASES = (
    *(Case(trials=trials, slots=2) for trials in (6, 12, 25, 50)),
    Case(trials=25, slots=16),
    *(Case(trials=25, slots=slots, equal_seconds=True) for slots in (1, 4, 16)),
    Case(trials=128, slots=16),
)


@cache
def make_world(name: str, backbones: tuple[str, ...]) -> World:
    rows = recorded_rows([load_table(one) for one in SETS])
    return World(load_table(name), rows, backbones=backbones)


@cache
def reference(name: str, backbones: tuple[str, ...], seed: int) -> float:
    """Test accuracy of the row that validation chooses among all."""
    table, world = load_table(name), make_world(name, backbones)
    return table.test_of(table.choose([row.number for row in world.rows], RULE, seed=seed), RULE)


@cache
def best_recipe(name: str, backbones: tuple[str, ...], seed: int, rule: KeptEpoch) -> Replayed:
    """The recipe that validation chooses, run alone, as a method that keeps this epoch would run it."""
    world = make_world(name, backbones)
    alone = replace(METHODS["before"], rule=rule)
    return replay(world, alone, num_trials=len(world.recipes()), slots=1, seed=seed)


def run_one(
    method: str, name: str, seed: int, *, case: Case, backbones: tuple[str, ...]
) -> tuple[Replayed, float]:
    """Replay one study: what it handed over, and its regret."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    world, limit = make_world(name, backbones), np.inf
    if case.equal_seconds:
        limit = seconds_before(name, seed % 10, case=case, backbones=backbones)
    trials, slots = MANY_TRIALS if case.equal_seconds else case.trials, case.slots
    if method == RIVAL:
        found = replay_rival(world, seed=seed, seconds=limit, num_trials=trials, slots=slots)
    else:
        found = replay(world, METHODS[method], seed=seed, seconds=limit, num_trials=trials, slots=slots)
    return found, reference(name, backbones, seed) - found.test_accuracy


@cache
def seconds_before(name: str, seed: int, *, case: Case, backbones: tuple[str, ...]) -> float:
    world = make_world(name, backbones)
    return replay(world, METHODS["before"], num_trials=case.trials, slots=case.slots, seed=seed).seconds


def run_case(
    case: Case, methods: Sequence[str], *, seeds: int, backbones: tuple[str, ...], processes: int
) -> Iterator[dict[str, object]]:
    """Replay all methods on all sets; yields a summary of each method."""
    for method in methods:
        jobs = [(method, name, seed) for name in SETS for seed in range(seeds)]
        work = partial(run_one, case=case, backbones=backbones)
        if processes > 1:
            with multiprocessing.Pool(processes) as pool:
                found = pool.starmap(work, jobs, chunksize=10)
        else:
            found = [work(*job) for job in jobs]
        yield summarize(method, jobs, found, backbones=backbones)


def summarize(
    method: str,
    jobs: Sequence[tuple[str, str, int]],
    found: Sequence[tuple[Replayed, float]],
    *,
    backbones: tuple[str, ...],
) -> dict[str, object]:
    """Mean regret in points with its standard error over seeds, share above the best recipe, and cost."""
    regrets: dict[str, list[float]] = {name: [] for name in SETS}
    gains = []
    rule = METHODS[method].rule if method in METHODS else "best"
    for (_, name, seed), (one, regret) in zip(jobs, found, strict=True):
        regrets[name].append(100 * regret)
        recipe = best_recipe(name, backbones, seed, rule)
        gains.append(100 * (one.test_accuracy - recipe.test_accuracy))
    by_seed = np.array(list(regrets.values())).mean(axis=0)
    error = float(by_seed.std(ddof=1) / len(by_seed) ** 0.5) if len(by_seed) > 1 else 0.0
    return {
        "method": method,
        "regret": round(float(by_seed.mean()), 3),
        "standard_error": round(error, 3),
        "by_set": {name: round(statistics.fmean(values), 2) for name, values in regrets.items()},
        "gain_over_best_recipe": round(statistics.fmean(gains), 3),
        "above_best_recipe": round(sum(gain > 1e-6 for gain in gains) / len(gains), 3),
        "seconds": round(statistics.fmean(one.seconds for one, _ in found), 1),
        "trials": round(statistics.fmean(one.trials for one, _ in found), 1),
        "complete": round(statistics.fmean(one.complete for one, _ in found), 1),
    }


def print_case(case: Case, rows: Sequence[Mapping[str, object]]) -> None:
    print(f"\n{case.name}\n")
    print(
        "| method | regret | ± | " + " | ".join(SETS) + " | above best recipe | seconds | trials | complete |"
    )
    print("|---" * (len(SETS) + 7) + "|")
    for row in rows:
        by_set = row["by_set"]
        assert isinstance(by_set, dict)
        sets = " | ".join(f"{by_set[name]:.2f}" for name in SETS)
        print(
            f"| {row['method']} | {row['regret']:.2f} | {row['standard_error']:.2f} | {sets} "
            f"| {row['above_best_recipe']:.0%} | {row['seconds']:.0f} | {row['trials']:.0f} "
            f"| {row['complete']:.1f} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks search_quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, RIVAL], choices=[*METHODS, RIVAL])
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers, from 0")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--processes", type=int, default=2)
    flags = parser.parse_args(argv)
    summary: dict[str, object] = {"benchmark": "search_quality", "seeds": flags.seeds}
    for case in (CASES[number] for number in flags.cases):
        rows = list(
            run_case(
                case,
                flags.methods,
                seeds=flags.seeds,
                backbones=tuple(flags.backbones),
                processes=flags.processes,
            )
        )
        print_case(case, rows)
        summary[case.name] = rows
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
