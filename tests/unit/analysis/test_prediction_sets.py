"""Prediction sets: hand-made examples, and coverage over many draws as the theory says."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.calibration.prediction_sets import check_coverage, fit_threshold, make_sets
from contract.answer import normalise


def draw(num: int, seed: int, *, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shares = np.exp(normalise(generator.normal(size=(num, classes)) * 2))
    labels = (shares.cumsum(axis=1) > generator.random(num)[:, None]).argmax(axis=1)
    return shares, labels


def test_the_threshold_of_nine_images_is_the_lowest_of_their_own_probabilities() -> None:
    own = np.array([0.9, 0.8, 0.95, 0.7, 0.6, 0.85, 0.99, 0.5, 0.75])
    probabilities = np.stack([own, 1 - own], axis=1)
    labels = np.zeros(9, np.int64)

    at_90, at_80 = (fit_threshold(probabilities, labels, alpha=alpha) for alpha in (0.1, 0.2))

    assert (at_90.rank, at_90.least) == (9, 0.5)  # ceil(10 x 0.9)
    assert (at_80.rank, at_80.least) == (8, 0.6)  # ceil(10 x 0.8)
    sets = make_sets(np.array([[0.55, 0.45], [0.5, 0.5], [0.2, 0.8]]), at_90)
    assert sets.tolist() == [[True, False], [True, True], [False, True]]


def test_too_few_images_make_sets_of_all_classes_and_say_so() -> None:
    probabilities, labels = draw(8, 0)

    threshold = fit_threshold(probabilities, labels, alpha=0.1)

    assert threshold.holds_all and make_sets(probabilities, threshold).all()
    assert "8 validation images are too few (9 are needed)" in threshold.describe()
    assert check_coverage(probabilities, labels, threshold).covered == 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_coverage_over_many_draws_is_what_is_promised_and_scatters_as_told(alpha: float) -> None:
    new, new_labels = draw(20_000, 10_000)
    covered, inside = [], []
    for seed in range(300):
        threshold = fit_threshold(*draw(120, seed), alpha=alpha)
        own = new[np.arange(len(new)), new_labels]
        covered.append(float((own >= threshold.least).mean()))
        inside.append(threshold.low <= covered[-1] <= threshold.high)

    assert 1 - alpha - 0.004 < np.mean(covered) < 1 - alpha + 0.013
    assert 0.91 < np.mean(inside) < 0.99


def test_no_set_is_empty_and_coverage_only_rises_by_that() -> None:
    probabilities = np.array([[0.4, 0.35, 0.25], [0.9, 0.05, 0.05]])
    labels = np.zeros(40, np.int64)
    sure = np.tile([0.95, 0.03, 0.02], (40, 1))
    threshold = fit_threshold(sure, labels)

    sets = make_sets(probabilities, threshold)
    checked = check_coverage(probabilities, np.array([0, 1]), threshold)

    assert threshold.least == 0.95
    assert sets.tolist() == [[True, False, False], [True, False, False]]
    assert (checked.covered, checked.filled, checked.mean_size) == (0.5, 1.0, 1.0)


def test_a_promise_kept_and_one_broken_are_told_apart() -> None:
    threshold = fit_threshold(*draw(400, 1))
    same, labels = draw(300, 2)
    strange = np.random.default_rng(0).permutation(6)[labels]

    kept, broken = check_coverage(same, labels, threshold), check_coverage(same, strange, threshold)

    assert kept.keeps_promise and "as promised" in kept.describe()
    assert not broken.keeps_promise and "fewer than promised" in broken.describe()
    assert kept.expected_low < 0.9 < kept.expected_high
    assert broken.as_values()["keeps_promise"] is False


def test_a_reading_rarely_breaks_a_promise_that_holds() -> None:
    kept = [
        check_coverage(*draw(200, seed + 1000), fit_threshold(*draw(150, seed))).keeps_promise
        for seed in range(200)
    ]

    assert np.mean(kept) > 0.94


def test_groups_widen_what_the_images_leave_open() -> None:
    probabilities, labels = draw(200, 3)
    groups = np.arange(200) // 5

    alone, grouped = (fit_threshold(probabilities, labels, groups=one) for one in (np.arange(200), groups))

    assert alone.least == grouped.least
    assert (alone.num_effective, grouped.num_effective) == (200, 40)
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)
    assert check_coverage(probabilities, labels, grouped, groups=groups).low < 0.88


def test_an_alpha_outside_of_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_threshold(*draw(20, 0), alpha=1.0)


def test_no_images_to_check_on_are_refused() -> None:
    with pytest.raises(ValueError, match="test split is empty"):
        check_coverage(np.zeros((0, 6)), np.zeros(0, np.int64), fit_threshold(*draw(20, 0)))
