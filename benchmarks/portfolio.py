"""Do past studies make the next one better? One data set is left out, the others are the past.

Replays searches on the recorded table of `python -m benchmarks search_quality`. The past is one study of each
other data set, by the default search started cold. The new study runs the recipes, then what it takes over
from the past, then goes on by itself. Regret is in points of test accuracy, against running every row of the
table and choosing by validation; the difference is from the cold start of the same set and seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna

from benchmarks.quality.methods import METHODS
from benchmarks.quality.past import WAYS, Starts, all_trials, make_world, past_trials
from benchmarks.quality.replay import replay
from benchmarks.quality.rows import BACKBONES
from benchmarks.quality.splits import SETS
from benchmarks.search_quality import reference

SLOTS = 2


@dataclass(frozen=True, kw_only=True)
class Start:
    """A way to begin a study."""

    way: str | None = None
    """Key of WAYS; None takes nothing over."""

    share: float = 0.0
    """Largest share of the study's trials that may be taken over; at least one is."""

    all_rows: bool = False
    """The past has tried every row."""


COLD = "default, cold"
STARTS = {
    "recipes alone": Start(),
    COLD: Start(),
    "likeness, 1/8": Start(way="likeness", share=1 / 8),
    "likeness, 1/4": Start(way="likeness", share=1 / 4),
    "portfolio, 1/8": Start(way="portfolio", share=1 / 8),
    "portfolio, 1/4": Start(way="portfolio", share=1 / 4),
    "portfolio, 1/2": Start(way="portfolio", share=1 / 2),
    "portfolio of all rows, 1/4": Start(way="portfolio", share=1 / 4, all_rows=True),
}


def run_one(
    start: str, name: str, seed: int, *, trials: int, past: int, backbones: tuple[str, ...]
) -> tuple[float, float]:
    """Replay one study: the test accuracy of what it handed over, and its regret."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    method = METHODS["recipes alone" if start == "recipes alone" else "now"]
    found = replay(
        make_world(name, backbones),
        method,
        num_trials=trials,
        slots=SLOTS,
        seed=seed,
        warm_starts=taken_over(STARTS[start], name, seed, trials=trials, past=past, backbones=backbones),
    )
    return found.test_accuracy, reference(name, backbones, seed) - found.test_accuracy


def taken_over(
    start: Start, name: str, seed: int, *, trials: int, past: int, backbones: tuple[str, ...]
) -> Starts:
    """The configurations that a study of this set begins with, after the recipes."""
    if start.way is None:
        return []
    others = [other for other in SETS if other != name]
    if start.all_rows:
        known = [one for other in others for one in all_trials(other, backbones, seed=seed)]
    else:
        known = [one for other in others for one in past_trials(other, backbones, trials=past, seed=seed)]
    return WAYS[start.way](known, name, max(1, int(trials * start.share)))


def summarize(
    start: str, found: Sequence[tuple[float, float]], cold: Sequence[tuple[float, float]], *, seeds: int
) -> dict[str, object]:
    """Means over sets and seeds, in points; standard errors are over seeds, of the mean over sets."""
    tests, regrets = 100 * np.array(found).T.reshape(2, len(SETS), seeds)
    differences = regrets - 100 * np.array(cold)[:, 1].reshape(len(SETS), seeds)
    return {
        "start": start,
        "test_accuracy": round(float(tests.mean()), 2),
        "regret": round(float(regrets.mean()), 3),
        "standard_error": _error(regrets),
        "difference": round(float(differences.mean()), 3),
        "difference_error": _error(differences),
        "by_set": {name: round(float(one.mean()), 2) for name, one in zip(SETS, regrets, strict=True)},
    }


def _error(values: np.ndarray) -> float:
    by_seed = values.mean(axis=0)
    return round(float(by_seed.std(ddof=1) / len(by_seed) ** 0.5), 3) if len(by_seed) > 1 else 0.0


def print_case(title: str, rows: Sequence[dict[str, object]]) -> None:
    print(f"\n{title}\n")
    print("| start | test accuracy | regret | ± | less than cold by | ± | " + " | ".join(SETS) + " |")
    print("|---" * (6 + len(SETS)) + "|")
    for row in rows:
        by_set = row["by_set"]
        assert isinstance(by_set, dict)
        sets = " | ".join(f"{by_set[name]:.2f}" for name in SETS)
        figures = [row[name] for name in ("test_accuracy", "regret", "standard_error")]
        gain = f"{-float(str(row['difference'])):+.2f} | {row['difference_error']:.2f}"
        shown = " | ".join(f"{figure:.2f}" for figure in figures)
        print(f"| {row['start']} | {shown} | {gain} | {sets} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks portfolio", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--trials", type=int, nargs="+", default=(4, 8, 16))
    parser.add_argument("--past", type=int, default=25, help="trials of each past study")
    parser.add_argument("--starts", nargs="+", default=[*STARTS], choices=[*STARTS])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--processes", type=int, default=1)
    flags = parser.parse_args(argv)
    jobs = [(name, seed) for name in SETS for seed in range(flags.seeds)]
    starts = [COLD, *(one for one in flags.starts if one != COLD)]
    summary: dict[str, object] = {"benchmark": "portfolio", "seeds": flags.seeds, "past": flags.past}
    with multiprocessing.Pool(flags.processes) as pool:
        for trials in flags.trials:
            work = partial(run_one, trials=trials, past=flags.past, backbones=tuple(flags.backbones))
            found = {
                start: pool.starmap(work, [(start, *job) for job in jobs], chunksize=flags.seeds)
                for start in starts
            }
            rows = [
                summarize(start, found[start], found[COLD], seeds=flags.seeds)
                for start in STARTS
                if start in found
            ]
            print_case(f"{trials} trials", rows)
            summary[f"{trials} trials"] = rows
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
