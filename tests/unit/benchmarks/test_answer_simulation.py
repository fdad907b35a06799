"""The simulation of corrected scores knows its truth, and its bounded version runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.answer.rules import Choice
from benchmarks.answer_simulation import run_cell
from benchmarks.simulated.predictions import TRUTH_IMAGES, Cell, find_truth, simulate
from contract.answer import Pooling

ROOT = Path(__file__).parents[3]


def test_simulated_trials_are_correlated_and_their_truth_is_that_of_fresh_images() -> None:
    generator = np.random.default_rng(0)
    cell = Cell(name="", trials=6, images=20_000)

    simulated = simulate(cell, generator)

    correlations = np.corrcoef(simulated.pool.right)[np.triu_indices(6, 1)]
    assert 0.6 < correlations.mean() < 0.8
    shares = (np.eye(6)[2], np.full(6, 1 / 6))
    choices = [Choice(simulated.pool, one, Pooling.PROBABILITIES) for one in shares]
    alone = find_truth(cell, simulated, choices[:1], generator)[0]
    truth, combined = find_truth(cell, simulated, choices, generator)
    assert truth.right.mean() == pytest.approx(alone.right.mean(), abs=0.005)
    assert combined.right.mean() == pytest.approx(choices[1].scores.right.mean(), abs=0.01)
    assert len(truth.right) == TRUTH_IMAGES
    assert truth.right.mean() == pytest.approx(simulated.pool.right[2].mean(), abs=0.01)


def test_corrected_scores_of_few_studies_are_nearer_the_truth_than_raw_ones() -> None:
    cell = Cell(name="", trials=32, images=120, spread=0.0)

    figures = run_cell(cell, repetitions=12, resamples=30, processes=1)

    raw, corrected = (figures[f"single val_accuracy {way}"] for way in ("raw", "corrected"))
    assert raw["bias"] > 0.015 > abs(corrected["bias"])
    assert corrected["coverage"] > 0.8


def test_groups_and_a_search_around_the_best_are_simulated() -> None:
    grouped = simulate(Cell(name="", trials=2, images=40, group_size=4), np.random.default_rng(0)).pool
    adaptive = simulate(Cell(name="", trials=24, images=60, adaptive=True), np.random.default_rng(0))

    assert grouped.num_groups == 10
    assert (grouped.labels.reshape(10, 4) == grouped.labels[::4, None]).all()
    assert adaptive.skills[6:].mean() > adaptive.skills[:6].mean()


@pytest.mark.slow
def test_the_command_prints_a_table_and_one_line_of_json() -> None:
    flags = ("--repetitions", "2", "--resamples", "10", "--processes", "1", "--only")

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "answer_simulation",
            *flags,
            "8 trials, 120",
            "greedy: 32 trials, 120",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["answer_simulation"]) == 2 and "corrected" in done.stdout
