"""Bias and coverage of corrected scores, in simulated studies whose truth is known.

    python -m benchmarks answer_simulation --repetitions 500

Beside the corrected score stand the raw one, on the images that the model was chosen by, and that of a
held-out half: chosen on one half of the images, scored on the other, and taken for the score of the model
chosen on all. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.answer.correction import ACCURACY, LOSS, correct
from analysis.answer.gate import decide
from analysis.answer.intervals import estimate_loss, estimate_share, variance_of_mean
from analysis.answer.pool import Pool
from analysis.answer.rules import GREEDY_RESAMPLES, Rule, make_rules
from analysis.answer.scores import score_shares
from analysis.predictions import Array
from benchmarks.simulated.predictions import Cell, find_truth, simulate

CELLS = (
    Cell(name="8 trials, 120 images", trials=8, images=120),
    Cell(name="32 trials, 120 images", trials=32, images=120),
    Cell(name="256 trials, 120 images", trials=256, images=120),
    Cell(name="8 trials, 645 images", trials=8, images=645),
    Cell(name="32 trials, 645 images", trials=32, images=645),
    Cell(name="256 trials, 645 images", trials=256, images=645),
    Cell(name="32 trials, 2,000 images", trials=32, images=2000),
    Cell(name="256 trials, 2,000 images", trials=256, images=2000),
    Cell(name="32 equal trials, 120 images", trials=32, images=120, spread=0.0),
    Cell(name="64 equal trials, 645 images", trials=64, images=645, spread=0.0),
    Cell(name="around the best: 64 trials, 120 images", trials=64, images=120, adaptive=True),
    Cell(name="around the best: 64 trials, 645 images", trials=64, images=645, adaptive=True),
    Cell(name="groups of 4: 32 trials, 480 images", trials=32, images=480, group_size=4),
    Cell(name="greedy: 32 trials, 120 images", trials=32, images=120, greedy=True),
    Cell(name="greedy: 32 trials, 400 images", trials=32, images=400, greedy=True),
)
Figures = dict[str, list[tuple[float, float, float, float]]]
"""(truth, estimate, low, high) of each repetition, by "rule metric way"."""


def repeat(task: tuple[Cell, int, int, int]) -> Figures:
    """Simulate studies and estimate the scores of what the rules choose.

    Args:
        task: cell, first repetition, repetitions, resamples of each.
    """
    cell, first, count, resamples = task
    figures: Figures = defaultdict(list)
    for repetition in range(first, first + count):
        generator = np.random.default_rng([cell.trials, cell.images, repetition])
        _measure_study(cell, generator, repetition, resamples, figures)
    return dict(figures)


def _measure_study(
    cell: Cell, generator: np.random.Generator, seed: int, resamples: int, figures: Figures
) -> None:
    simulated = simulate(cell, generator)
    pool = simulated.pool
    rules = [
        replace(rule, num_resamples=min(rule.num_resamples, resamples))
        for rule in make_rules(pool, ACCURACY)
        if cell.greedy or rule.name == "single"
    ]
    correction = correct(pool, ACCURACY, rules=rules, seed=seed)
    assert correction is not None
    truths = {}
    choices = [one.choice for one in correction.rules]
    found = find_truth(cell, simulated, choices, generator)
    for rule, scored, truth in zip(rules, correction.rules, found, strict=True):
        choice = scored.choice
        truths[rule.name] = {ACCURACY: float(truth.right.mean()), LOSS: float(truth.loss.mean())}
        for metric, true in truths[rule.name].items():
            score, name = scored.scores[metric], f"{rule.name} {metric}"
            figures[f"{name} corrected"].append((true, score.corrected, score.low, score.high))
            every = np.arange(pool.num_images)
            figures[f"{name} raw"].append((true, *_estimate(pool, choice.shares, rule, metric, every)))
            figures[f"{name} half"].append((true, *_score_half(pool, rule, metric, seed)))
    for gain in correction.gains:
        sign = 1 if gain.metric == ACCURACY else -1
        true = sign * (truths[gain.rule][gain.metric] - truths[gain.than][gain.metric])
        name = f"{gain.rule}>{gain.than} {gain.metric} gain"
        figures[name].append((true, gain.value, gain.low, gain.high))
    if cell.greedy:
        rule_name = decide(correction).rule
        for metric in (ACCURACY, LOSS):
            true = truths[rule_name][metric]
            score = correction.of(rule_name).scores[metric]
            figures[f"gate {metric} corrected"].append((true, score.corrected, score.low, score.high))


def _estimate(
    pool: Pool, shares: Array, rule: Rule, metric: str, images: Array
) -> tuple[float, float, float]:
    """Score a combination on images as if it had not been chosen: value, low, high."""
    scores = score_shares(pool, shares, rule.pooling, images)
    groups = np.unique(pool.groups[images], return_inverse=True)[1]
    num_groups = int(groups.max()) + 1
    if metric == LOSS:
        variance = variance_of_mean(scores.loss, groups)
        found = estimate_loss(float(scores.loss.mean()), variance, num_groups=num_groups)
    else:
        value = float(scores.right.mean())
        variance = max(variance_of_mean(scores.right, groups), value * (1 - value) / len(images))
        found = estimate_share(value, variance, num_groups=num_groups)
    return found.value, found.low, found.high


def _score_half(pool: Pool, rule: Rule, metric: str, seed: int) -> tuple[float, float, float]:
    """Choose on a random half of the groups, and score that choice on the other half."""
    in_first = np.random.default_rng([seed, 1]).permutation(pool.num_groups)[pool.groups] % 2 == 0
    shares = rule.select(pool, in_first[None].astype(np.float64))[0]
    return _estimate(pool, shares, rule, metric, np.flatnonzero(~in_first))


def summarise(figures: Figures) -> dict[str, dict[str, float]]:
    """Bias, root mean square error, coverage and width by "rule metric way"."""
    result = {}
    for name, rows in figures.items():
        truth, value, low, high = np.array(rows).T
        finite = np.isfinite(high)
        result[name] = {
            "truth": float(truth.mean()),
            "bias": float((value - truth).mean()),
            "standard_error": float((value - truth).std() / np.sqrt(len(rows))),
            "rmse": float(np.sqrt(((value - truth) ** 2).mean())),
            "coverage": float(((low <= truth) & (truth <= high)).mean()),
            "width": float((high - low)[finite].mean()),
        }
    return result


def run_cell(
    cell: Cell, *, repetitions: int, resamples: int, processes: int, chunk: int = 10
) -> dict[str, dict[str, float]]:
    """Repeat a cell on several processes; the result does not depend on their number."""
    tasks = [
        (cell, first, min(chunk, repetitions - first), resamples) for first in range(0, repetitions, chunk)
    ]
    joined: Figures = defaultdict(list)
    if processes == 1:
        parts = [repeat(task) for task in tasks]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as workers:
            parts = workers.map(repeat, tasks, chunksize=1)
    for part in parts:
        for name, rows in part.items():
            joined[name] += rows
    return summarise(joined)


def make_table(results: Sequence[dict[str, Any]]) -> Table:
    """Show every rule of every cell: accuracy in points, log-loss in hundredths of a nat."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = (
        "cell",
        "rule, metric",
        "truth",
        "bias raw",
        "half",
        "corrected",
        "error raw",
        "half",
        "corrected",
    )
    for head in (*heads, "cover raw", "half", "corrected", "width half", "corrected"):
        table.add_column(head)
    ways = ("raw", "half", "corrected")
    for result in results:
        figures = result["figures"]
        for key in (name.removesuffix(" corrected") for name in figures if name.endswith(" corrected")):
            of = [figures.get(f"{key} {way}") for way in ways]
            cells = [f"{100 * of[2]['truth']:.2f}"]
            for column, style in (("bias", "+.2f"), ("rmse", ".2f"), ("coverage", ".1f"), ("width", ".1f")):
                shown = of if column != "width" else of[1:]
                cells += [format(100 * one[column], style) if one else "" for one in shown]
            table.add_row(result["cell"], key, *cells)
        for key in (name for name in figures if name.endswith(" gain")):
            one = figures[key]
            values = (f"{100 * one['truth']:+.2f}", "", "", f"{100 * one['bias']:+.2f}")
            errors = ("", "", f"{100 * one['rmse']:.2f}", "", "", f"{100 * one['coverage']:.1f}", "")
            table.add_row(result["cell"], key, *values, *errors, f"{100 * one['width']:.1f}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=500, metavar="N")
    parser.add_argument("--resamples", type=int, default=GREEDY_RESAMPLES, metavar="B")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="cells whose name holds it")
    flags = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # inherited by the processes
    results: list[dict[str, Any]] = []
    for cell in (one for one in CELLS if any(text in one.name for text in flags.only)):
        started = time.perf_counter()
        figures = run_cell(
            cell, repetitions=flags.repetitions, resamples=flags.resamples, processes=flags.processes
        )
        seconds = round(time.perf_counter() - started, 1)
        results.append({"cell": cell.name, "seconds": seconds, "figures": figures})
        print(f"{cell.name}: {seconds} s", file=sys.stderr)
    Console(width=220).print(make_table(results))
    rounded = [
        {
            **one,
            "figures": {
                name: {key: round(value, 5) for key, value in row.items()}
                for name, row in one["figures"].items()
            },
        }
        for one in results
    ]
    print(json.dumps({"answer_simulation": rounded, "repetitions": flags.repetitions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
