"""BiT-HyperRule exactly as published, and the shapes of the other schedules."""

from __future__ import annotations

import pytest

from trainables.training.schedules import (
    PLATEAU_PATIENCE,
    hyperrule,
    hyperrule_multiplier,
    make_schedule,
)

PUBLISHED = {
    19_999: [100, 200, 300, 400, 500],
    20_000: [500, 3000, 6000, 9000, 10_000],
    499_999: [500, 3000, 6000, 9000, 10_000],
    500_000: [500, 6000, 12_000, 18_000, 20_000],
}


def published_rate(step: int, supports: list[int]) -> float | None:
    """The rule as big_transfer's bit_hyperrule.py writes it, with base rate 1."""
    if step < supports[0]:
        return step / supports[0]
    if step >= supports[-1]:
        return None
    rate = 1.0
    for support in supports[1:]:
        if support < step:
            rate /= 10
    return rate


@pytest.mark.parametrize("num_train", PUBLISHED)
def test_hyperrule_is_the_published_rule_at_every_boundary(num_train: int) -> None:
    supports = PUBLISHED[num_train]
    warmup, boundaries, end = hyperrule(num_train)
    steps = [0, 1, *(support + offset for support in supports for offset in (-1, 0, 1))]

    shares = [hyperrule_multiplier(step, warmup, boundaries, end) for step in steps]

    assert [warmup, *boundaries, end] == supports
    for share, step in zip(shares, steps, strict=True):
        expected = published_rate(step, supports)
        assert (share is None) == (expected is None)
        assert share == (None if expected is None else pytest.approx(expected))


def test_a_phase_too_short_for_hyperrule_gets_all_of_it_in_proportion() -> None:
    schedule = make_schedule("hyperrule", total_steps=50, num_train=100)

    shares = [schedule.multiplier(step) for step in (0, 5, 10, 20, 21, 31, 41, 49, 50)]

    assert shares == [0.0, 0.5, 1.0, 1.0, *(pytest.approx(10.0**-k) for k in (1, 2, 3, 3)), None]


def test_a_phase_longer_than_hyperrule_ends_with_it() -> None:
    schedule = make_schedule("hyperrule", total_steps=9999, num_train=100)

    assert schedule.multiplier(499) == pytest.approx(0.001)
    assert schedule.multiplier(500) is None


def test_warm_up_ends_at_the_peak_and_the_decay_starts_there() -> None:
    schedule = make_schedule("cosine", total_steps=30, warmup_steps=10)

    shares = [schedule.multiplier(step) for step in (0, 5, 10, 20, 29)]

    assert shares == [0.0, 0.5, 1.0, pytest.approx(0.5), pytest.approx(0.006, abs=1e-3)]


def test_a_plateau_decays_only_after_its_patience() -> None:
    schedule = make_schedule("plateau", total_steps=100)
    shares = []

    for loss in [1.0, *[1.0] * (PLATEAU_PATIENCE + 1), 0.5]:
        schedule.observe(loss)
        shares.append(schedule.multiplier(10))

    assert shares == [1.0] * (PLATEAU_PATIENCE + 1) + [pytest.approx(0.1)] * 2
