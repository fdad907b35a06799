"""A rule that costs more must show its gain; one that costs no more must not be worse."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.answer.correction import ACCURACY, LOSS, Correction, Gain, RuleScores, correct
from analysis.answer.gate import decide
from analysis.answer.rules import Choice
from benchmarks.simulated.predictions import Cell, simulate
from contract.answer import Pooling
from tests.simulated_pool import draw_chances, make_pool_of

POOL = make_pool_of([draw_chances(20, 0.9, seed=1), draw_chances(20, 0.9, seed=2)])


def make_correction(loss: tuple[float, float], accuracy: float, *, same: bool = False) -> Correction:
    """Single best and ensemble, with the ensemble's gain in loss (value, low) and accuracy."""
    single = Choice(POOL, np.array([1.0, 0.0]), Pooling.PROBABILITIES)
    shares = np.array([1.0, 0.0]) if same else np.array([0.5, 0.5])
    ensemble = Choice(POOL, shares, Pooling.PROBABILITIES)
    rules = [
        RuleScores(rule=name, choice=choice, num_resamples=1, scores={})
        for name, choice in (("single", single), ("ensemble", ensemble))
    ]
    gains = [
        Gain(rule="ensemble", than="single", metric=LOSS, value=loss[0], low=loss[1], high=1.0),
        Gain(rule="ensemble", than="single", metric=ACCURACY, value=accuracy, low=-1.0, high=1.0),
    ]
    return Correction(
        metric=ACCURACY,
        num_images=20,
        num_groups=20,
        num_candidates=2,
        rules=tuple(rules),
        gains=tuple(gains),
    )


@pytest.mark.parametrize(
    ("loss", "accuracy", "rule", "reason"),
    [
        ((0.05, 0.01), 0.0, "ensemble", "beyond chance"),
        ((0.05, -0.01), 0.1, "single", "cannot be told from chance"),
        ((0.05, 0.01), -0.01, "single", "accuracy is lower"),
    ],
)
def test_a_costlier_rule_needs_a_gain_beyond_chance_and_no_lower_accuracy(
    loss: tuple[float, float], accuracy: float, rule: str, reason: str
) -> None:
    decision = decide(make_correction(loss, accuracy))

    assert decision.rule == rule
    assert reason in decision.reasons["ensemble"]


@pytest.mark.parametrize(
    ("loss", "accuracy", "rule"),
    [
        ((0.01, -0.05), 0.0, "ensemble"),
        ((-0.01, -0.05), 0.1, "single"),
        ((0.01, -0.05), -0.01, "single"),
    ],
)
def test_a_rule_at_no_higher_cost_is_taken_if_neither_is_worse(
    loss: tuple[float, float], accuracy: float, rule: str
) -> None:
    decision = decide(make_correction(loss, accuracy), costs={"single": 10.0, "ensemble": 10.0})

    assert decision.rule == rule
    assert "costs no more" in decision.reasons["ensemble"]


def test_the_same_model_by_another_rule_is_said_to_be_the_same() -> None:
    decision = decide(make_correction((0.5, 0.4), 0.1, same=True))

    assert decision.rule == "single"
    assert decision.reasons["ensemble"] == "It chose the same model as single."


def test_members_that_err_apart_are_combined_and_copies_are_not() -> None:
    apart = simulate(Cell(name="", trials=6, images=300, shared=0.3), np.random.default_rng(1)).pool
    copies = make_pool_of([draw_chances(100, 0.9, seed=1)] * 4)

    rules = []
    for pool in (apart, copies):
        found = correct(pool, ACCURACY)
        assert found is not None
        rules.append(decide(found).rule)

    assert rules[0] != "single" and rules[1] == "single"
