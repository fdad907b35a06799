"""The Pareto front: nobody on it is beaten in every metric, and everybody off it is."""

from __future__ import annotations

import random

from analysis.leaderboard import find_front

OBJECTIVES = {"val_accuracy": True, "epoch_seconds": False}


def row(accuracy: float, seconds: float, state: str = "complete") -> dict[str, object]:
    return {"val_accuracy": accuracy, "epoch_seconds": seconds, "state": state}


def test_the_front_holds_every_compromise_and_nothing_beaten() -> None:
    rows = [row(0.8, 5), row(0.9, 10), row(0.85, 12), row(0.7, 1), row(0.9, 11)]

    assert find_front(rows, OBJECTIVES) == [1, 0, 3]


def test_equal_trials_are_on_the_front_together() -> None:
    assert find_front([row(0.9, 1), row(0.9, 1), row(0.9, 2)], OBJECTIVES) == [0, 1]


def test_only_complete_trials_count() -> None:
    assert find_front([row(0.99, 1, "pruned"), row(0.5, 9)], OBJECTIVES) == [1]


def test_a_random_front_agrees_with_the_definition() -> None:
    dice = random.Random(0)
    rows = [row(dice.randint(0, 9) / 10, dice.randint(0, 9)) for _ in range(80)]

    def beats(a: dict[str, object], b: dict[str, object]) -> bool:
        no_worse = a["val_accuracy"] >= b["val_accuracy"] and a["epoch_seconds"] <= b["epoch_seconds"]  # type: ignore[operator]
        return no_worse and a != b

    expected = {i for i, one in enumerate(rows) if not any(beats(other, one) for other in rows)}
    assert set(find_front(rows, OBJECTIVES)) == expected
