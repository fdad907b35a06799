"""`planned_shares` says how far a trial is in its own schedule after each epoch."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.training.schedules import planned_shares

COUNTS = (300, 300, 424)


def shares(counts: tuple[int, ...] = COUNTS, **changes: Any) -> tuple[float, ...]:
    return planned_shares({"backbone": "lite0", "max_epochs": 9, **changes}, counts)


def test_epochs_of_one_schedule_are_even() -> None:
    assert shares() == pytest.approx([epoch / 9 for epoch in range(1, 10)])


def test_batch_size_does_not_change_how_far_an_epoch_brings_a_trial() -> None:
    assert shares(batch_size=4) == pytest.approx(shares(batch_size=64))


def test_nothing_counts_before_the_warm_up_ends() -> None:
    found = shares(warmup_epochs=2.5)

    assert found[:2] == (0.0, 0.0)
    assert found[2:] == pytest.approx(shares()[2:])


def test_a_second_phase_warms_up_anew() -> None:
    found = shares(regime="two_phase", frozen_epochs=4, warmup_epochs=1.5)

    assert [share > 0 for share in found] == [False, True, True, True, False, True, True, True, True]


def test_nearest_neighbours_are_at_their_end_after_one_epoch() -> None:
    assert shares(regime="knn", unfreeze_depth=0) == (1.0,)


def test_hyperrule_warms_up_for_a_fifth_of_its_updates_and_ends_with_them() -> None:
    rule = {"regime": "bit", "optimizer": "sgd", "schedule": "hyperrule", "unfreeze_depth": "all"}

    found = shares(batch_size=512, max_epochs=300, **rule)

    assert len(found) == 250  # 500 updates, two an epoch
    assert found[:49] == (0.0,) * 49
    assert found[49] == pytest.approx(0.2)
    assert found[-1] == 1.0


def test_a_shortened_hyperrule_keeps_its_share_of_warm_up() -> None:
    rule = {"regime": "bit", "optimizer": "sgd", "schedule": "hyperrule", "unfreeze_depth": "all"}

    found = shares(batch_size=512, max_epochs=10, **rule)

    assert found == pytest.approx((0.0, *(epoch / 10 for epoch in range(2, 11))))


def test_over_sampled_copies_are_updates_too() -> None:
    rule = {"regime": "bit", "optimizer": "sgd", "schedule": "hyperrule", "unfreeze_depth": "all"}

    found = shares((100, 400), batch_size=100, max_epochs=900, minority_policy="light", **rule)

    assert len(found) == 63  # 500 updates, eight an epoch: both classes have 400 images


def test_a_contradictory_configuration_gets_even_shares_since_it_fails_when_it_runs() -> None:
    assert shares(regime="two_phase", frozen_epochs=9) == pytest.approx(shares())


def test_synthetic_images_lengthen_an_epoch_and_with_it_the_updates_of_warm_up() -> None:
    rule = {"regime": "bit", "optimizer": "sgd", "schedule": "hyperrule", "unfreeze_depth": "all"}

    def epochs(**changes: Any) -> int:
        values = {"backbone": "lite0", "batch_size": 512, "max_epochs": 300, **rule, **changes}
        return len(planned_shares(values, COUNTS, (0, 1024, 0)))

    assert epochs() == 250  # 500 updates, two an epoch
    assert epochs(synthetic_share=0.5) == 167  # three an epoch
    assert epochs(synthetic_share=1.0) == 125
    assert epochs(synthetic_share=1.0, minority_policy="medium") == 63  # 3 x 1,324 images
