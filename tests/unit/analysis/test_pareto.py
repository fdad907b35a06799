"""The Pareto front: nobody on it is beaten in every metric, and everybody off it is."""

from __future__ import annotations

import random
from typing import Any

from analysis.leaderboard import find_front
from contract.metrics import Direction

OBJECTIVES = {"val_accuracy": Direction.MAXIMIZE, "epoch_seconds": Direction.MINIMIZE}


def make_rows(*points: tuple[float, float]) -> list[dict[str, Any]]:
    """Trials by (accuracy, seconds)."""
    return [
        {"trial": trial, "val_accuracy": accuracy, "epoch_seconds": seconds}
        for trial, (accuracy, seconds) in enumerate(points)
    ]


def front_of(rows: list[dict[str, Any]]) -> list[int]:
    return [row["trial"] for row in find_front(rows, OBJECTIVES)]


def test_the_front_holds_every_compromise_and_nothing_beaten() -> None:
    rows = make_rows((0.8, 5), (0.9, 10), (0.85, 12), (0.7, 1), (0.9, 11))

    assert front_of(rows) == [1, 0, 3]


def test_equal_trials_are_on_the_front_together() -> None:
    assert front_of(make_rows((0.9, 1), (0.9, 1), (0.9, 2))) == [0, 1]


def test_a_trial_without_one_of_the_values_does_not_count() -> None:
    rows = make_rows((0.99, 1), (0.5, 9))
    rows[0]["epoch_seconds"] = None

    assert front_of(rows) == [1]


def test_a_random_front_agrees_with_the_definition() -> None:
    dice = random.Random(0)
    points = [(dice.randint(0, 9) / 10, dice.randint(0, 9)) for _ in range(80)]

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = {i for i, one in enumerate(points) if not any(beats(other, one) for other in points)}
    assert set(front_of(make_rows(*points))) == expected
