"""Every scheduler is a pure function of the records."""

from __future__ import annotations

import math

import pytest

from cluster import schedulers
from cluster.schedulers import Curves, load_scheduler


@pytest.mark.parametrize("name", schedulers.names())
def test_a_trial_is_never_stopped_at_its_last_epoch(name: str) -> None:
    curves = Curves({n: dict.fromkeys(range(1, 10), n / 10) for n in range(10)})

    assert load_scheduler(name).decide(trial=0, epoch=9, curves=curves, max_epochs=9, seed=0) == "continue"


@pytest.mark.parametrize("name", schedulers.names())
def test_the_only_trial_is_not_stopped(name: str) -> None:
    decide = load_scheduler(name).decide

    decisions = [
        decide(trial=0, epoch=e, curves=Curves({0: {e: 0.1}}), max_epochs=9, seed=0) for e in range(1, 10)
    ]

    assert "stop" not in decisions


@pytest.mark.parametrize("name", schedulers.names())
def test_the_best_trial_goes_on_everywhere(name: str) -> None:
    curves = Curves({n: dict.fromkeys(range(1, 10), n / 10) for n in range(10)})

    decisions = [
        load_scheduler(name).decide(trial=9, epoch=e, curves=curves, max_epochs=9, seed=0)
        for e in range(1, 10)
    ]

    assert set(decisions) == {"continue"}


@pytest.mark.parametrize("name", schedulers.names())
def test_a_value_that_is_no_number_does_not_confuse_the_others(name: str) -> None:
    curves = Curves({0: {1: math.nan}, 1: {1: 0.9}, 2: {1: math.nan}, 3: {1: 0.1}, 4: {1: 0.2}, 5: {1: 0.3}})

    assert load_scheduler(name).decide(trial=1, epoch=1, curves=curves, max_epochs=9, seed=0) == "continue"


def test_asha_stops_the_worse_two_thirds_at_a_rung_and_nobody_between_rungs() -> None:
    decide = load_scheduler("asha").decide
    curves = Curves({n: {1: n / 10, 2: n / 10, 3: n / 10} for n in range(9)})

    at_rungs = [decide(trial=n, epoch=3, curves=curves, max_epochs=9, seed=0) for n in range(9)]
    between = [decide(trial=n, epoch=2, curves=curves, max_epochs=9, seed=0) for n in range(9)]

    assert at_rungs == ["stop"] * 6 + ["continue"] * 3
    assert set(between) == {"continue"}
