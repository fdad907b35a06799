"""The rule by which a trial keeps one epoch: what a configuration asks for, and what an epoch is worth."""

import math
from typing import Any

import pytest

from contract import trial_config
from contract.metrics import epoch_merit
from contract.trial_config import kept_epoch

CURVE = [(0.5, 0.9), (0.8, 0.6), (0.7, 0.4), (0.6, 0.7)]
"""Accuracy and loss of each epoch."""


@pytest.mark.parametrize("auto", ["last", "lowest_loss", "best"])
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"kept_epoch": "last", "early_stopping_patience": 3}, "last"),
        ({"kept_epoch": "lowest_loss"}, "lowest_loss"),
        ({"kept_epoch": "auto", "early_stopping_patience": 3}, "best"),
        ({"kept_epoch": "auto", "early_stopping_patience": 0}, None),
        ({"kept_epoch": "auto"}, None),
        ({}, "best"),
    ],
)
def test_auto_stands_for_best_where_a_trial_stops_early_and_else_for_one_rule(
    monkeypatch: pytest.MonkeyPatch, auto: str, config: dict[str, Any], expected: str | None
) -> None:
    monkeypatch.setattr(trial_config, "KEPT_EPOCH", auto)

    assert kept_epoch(config) == (expected or auto)


@pytest.mark.parametrize(("rule", "expected"), [("last", 4), ("lowest_loss", 3), ("best", 2)])
def test_the_epoch_with_the_highest_merit_is_the_one_that_the_rule_names(rule: str, expected: int) -> None:
    merits = [
        epoch_merit(rule, epoch, value=value, loss=loss, maximize=True)
        for epoch, (value, loss) in enumerate(CURVE, start=1)
    ]

    assert merits.index(max(merits)) + 1 == expected


def test_a_metric_that_is_minimised_turns_the_best_epoch_around() -> None:
    low, high = (epoch_merit("best", 1, value=value, loss=None, maximize=False) for value in (0.1, 0.9))

    assert low > high


@pytest.mark.parametrize("rule", ["last", "lowest_loss", "best"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_epoch_without_a_finite_value_is_never_kept(rule: str, value: float) -> None:
    assert epoch_merit(rule, 1, value=value, loss=0.1, maximize=True) == -math.inf


def test_an_epoch_whose_loss_is_not_finite_never_has_the_lowest() -> None:
    assert epoch_merit("lowest_loss", 1, value=0.9, loss=math.nan, maximize=True) == -math.inf


def test_without_a_loss_the_lowest_loss_is_the_best_value() -> None:
    assert epoch_merit("lowest_loss", 1, value=0.9, loss=None, maximize=True) == 0.9
