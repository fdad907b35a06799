"""Every scheduler is a pure function of the records, and compares only trials that are equally far."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from cluster import schedulers
from cluster.schedulers import Curves, Shares, even_shares, load_scheduler
from contract.messages import Action

EPOCHS = 9
RUNGS = (1, 3)
"""The rungs of an even schedule of nine epochs: 1/9 and 1/3."""


def make_curves(
    points: Mapping[int, Mapping[int, float]], shares: Mapping[int, Shares] | None = None
) -> Curves:
    schedules = shares or {}
    return Curves(points, shares_of=lambda trial: schedules.get(trial, even_shares(EPOCHS)))


def decide(name: str, trial: int, epoch: int, curves: Curves) -> Action:
    return load_scheduler(name).decide(trial=trial, epoch=epoch, curves=curves, seed=0)


@pytest.mark.parametrize("name", schedulers.names())
def test_a_trial_is_never_stopped_at_its_last_epoch(name: str) -> None:
    curves = make_curves({n: dict.fromkeys(range(1, 10), n / 10) for n in range(10)})

    assert decide(name, 0, EPOCHS, curves) == "continue"


@pytest.mark.parametrize("name", schedulers.names())
def test_the_only_trial_is_not_stopped(name: str) -> None:
    decisions = [decide(name, 0, e, make_curves({0: {e: 0.1}})) for e in range(1, EPOCHS + 1)]

    assert "stop" not in decisions


@pytest.mark.parametrize("name", schedulers.names())
def test_the_best_trial_goes_on_everywhere(name: str) -> None:
    curves = make_curves({n: dict.fromkeys(range(1, 10), n / 10) for n in range(10)})

    decisions = [decide(name, 9, e, curves) for e in range(1, EPOCHS + 1)]

    assert set(decisions) == {"continue"}


@pytest.mark.parametrize("name", schedulers.names())
def test_a_value_that_is_no_number_does_not_confuse_the_others(name: str) -> None:
    points = {0: {1: math.nan}, 1: {1: 0.9}, 2: {1: math.nan}, 3: {1: 0.1}, 4: {1: 0.2}, 5: {1: 0.3}}

    assert decide(name, 1, 1, make_curves(points)) == "continue"


@pytest.mark.parametrize("name", schedulers.names())
def test_a_trial_is_not_judged_before_its_warm_up_ends(name: str) -> None:
    warm_up_of_five = (0.0, 0.0, 0.0, 0.0, *even_shares(EPOCHS)[4:])
    points = {n: dict.fromkeys(range(1, 10), 0.5 + n / 100) for n in range(12)} | {
        12: dict.fromkeys(range(1, 5), 0.01)
    }
    curves = make_curves(points, {12: warm_up_of_five})

    assert [decide(name, 12, epoch, curves) for epoch in range(1, 5)] == ["continue"] * 4


@pytest.mark.parametrize("name", schedulers.names())
def test_one_that_was_ready_at_once_stops_nobody_who_still_learns(name: str) -> None:
    ready = dict.fromkeys(range(6), (1.0,))
    curves = make_curves({n: {1: 0.9} for n in ready} | {6: dict.fromkeys(range(1, 10), 0.2)}, ready)

    decisions = {decide(name, 6, epoch, curves) for epoch in range(1, EPOCHS + 1)}

    assert "stop" not in decisions


@pytest.mark.parametrize("name", schedulers.names())
def test_schedules_of_other_lengths_are_compared_where_they_are_equally_far(name: str) -> None:
    long, short = even_shares(90), even_shares(9)
    # At a third of its schedule each long trial is as bad as the short one, and far better by its end.
    points = {n: {e: e / 90 for e in range(1, 91)} for n in range(12)}
    points[12] = {e: e / 9 for e in range(1, 4)}
    curves = make_curves(points, dict.fromkeys(range(12), long) | {12: short})

    assert {decide(name, 12, epoch, curves) for epoch in (1, 2, 3)} <= {"continue", "pause"}


def test_asha_stops_the_worse_two_thirds_at_a_rung_and_nobody_between_rungs() -> None:
    curves = make_curves({n: {1: n / 10, 2: n / 10, 3: n / 10} for n in range(9)})

    at_rungs = [decide("asha", n, 3, curves) for n in range(9)]
    between = [decide("asha", n, 2, curves) for n in range(9)]

    assert at_rungs == ["stop"] * 6 + ["continue"] * 3
    assert set(between) == {"continue"}


@pytest.mark.parametrize(
    ("shares", "epochs"),
    [
        (even_shares(1), ()),
        (even_shares(2), (1,)),
        (even_shares(3), (1,)),
        (even_shares(6), (1, 2)),
        (even_shares(9), (1, 3)),
        (even_shares(27), (3, 9)),
        ((0.0, 0.0, *even_shares(9)[2:]), (3,)),
        ((0.0, *even_shares(9)[1:]), (2, 3)),
        ((0.0,) * 8 + (1.0,), ()),
    ],
)
def test_rungs_stand_at_a_ninth_and_a_third_of_a_schedule_behind_its_warm_up(
    shares: Shares, epochs: tuple[int, ...]
) -> None:
    assert load_scheduler("asha").rungs(shares) == epochs
