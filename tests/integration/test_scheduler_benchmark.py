"""The simulated comparison of schedulers: the same each time, and promotion no worse than stopping."""

from __future__ import annotations

import pytest

from benchmarks.schedulers import compare, run, simulate
from benchmarks.simulated.learning_curves import MAX_EPOCHS, Curves

CONFIG = {"learning_rate": 1e-3, "dropout": 0.2, "weight_decay": 1e-4}


def test_a_configuration_has_one_curve_that_tends_to_its_end() -> None:
    curve = [Curves(3).accuracy(CONFIG, epoch) for epoch in range(1, MAX_EPOCHS + 1)]

    assert curve == [Curves(3).accuracy(CONFIG, epoch) for epoch in range(1, MAX_EPOCHS + 1)]
    assert curve[0] < curve[-1]
    assert abs(curve[-1] - Curves(3).final(CONFIG)) < 0.1


def test_the_same_seed_gives_the_same_regret() -> None:
    first, second = (
        simulate("promotion_asha", searcher="random", budget=60, slots=3, seed=4) for _ in range(2)
    )

    assert first == second
    assert first["epochs"] == 60


@pytest.mark.slow
def test_promotion_is_not_worse_than_stopping(full: bool) -> None:
    seeds = 100 if full else 12

    results = run(["asha", "promotion_asha"], seeds=seeds, budget=270, slots=4, searcher="random")

    gain = compare(results, "promotion_asha", "asha")
    assert gain["gain"] >= -2 * gain["standard_error"]
