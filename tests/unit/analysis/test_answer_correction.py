"""Corrected scores lie below those of the choice, cover the truth, and know about groups and lost weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.answer.correction import ACCURACY, LOSS, correct, draw_resamples
from analysis.answer.intervals import estimate_loss, estimate_share
from analysis.answer.pool import Pool
from analysis.answer.power import find_smallest_difference, smallest_difference
from analysis.answer.rules import make_rules
from analysis.answer.scores import METRICS_KNOWN
from benchmarks.simulated.predictions import Cell, simulate
from tests.simulated_pool import draw_chances, make_candidate, make_pool_of


def fewer(pool: Pool, metric: str = ACCURACY, *, resamples: int = 40) -> list:
    return [replace(rule, num_resamples=resamples) for rule in make_rules(pool, metric)]


def draw_pool(seed: int = 0, **cell: object) -> Pool:
    settings = {"name": "", "trials": 8, "images": 120} | cell
    return simulate(Cell(**settings), np.random.default_rng(seed)).pool


def test_the_winner_of_equal_guesses_is_corrected_to_what_guessing_gives() -> None:
    pool = make_pool_of([draw_chances(100, 0.5, seed=seed) for seed in range(40)])

    found = correct(pool, ACCURACY, rules=make_rules(pool, ACCURACY)[:1])

    assert found is not None
    score = found.of("single").scores[ACCURACY]
    assert score.as_chosen > 0.6
    assert score.corrected == pytest.approx(0.5, abs=0.04)
    assert score.low < 0.5 < score.high


def test_an_answer_far_ahead_of_the_others_keeps_its_score() -> None:
    pool = make_pool_of([draw_chances(200, accuracy, seed=1) for accuracy in (0.95, 0.5, 0.4)])

    found = correct(pool, ACCURACY, rules=make_rules(pool, ACCURACY)[:1])

    assert found is not None
    score = found.of("single").scores[ACCURACY]
    assert score.corrected == pytest.approx(score.as_chosen, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS_KNOWN)
def test_every_rule_has_three_numbers_for_every_metric(metric: str) -> None:
    pool = draw_pool(images=60)

    found = correct(pool, metric, rules=fewer(pool, metric))

    assert found is not None and [one.rule for one in found.rules] == [
        "single",
        "prefix_ensemble",
        "ensemble",
    ]
    for one in found.rules:
        assert set(one.scores) == {ACCURACY, LOSS, metric}
        assert all(score.low <= score.corrected <= score.high for score in one.scores.values())
    assert len(found.gains) == 3 * len({ACCURACY, LOSS, metric})
    assert all(gain.low <= gain.value <= gain.high for gain in found.gains)


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    pool = draw_pool(images=60)

    first, again, other = (correct(pool, ACCURACY, rules=fewer(pool), seed=seed) for seed in (3, 3, 4))

    assert first is not None and again is not None and other is not None
    assert first.gains == again.gains and first.gains != other.gains
    assert first.of("ensemble").scores == again.of("ensemble").scores


def test_groups_widen_the_interval() -> None:
    single = draw_pool(seed=2, images=240)
    grouped = draw_pool(seed=2, images=240, group_size=8)

    widths = []
    for pool in (single, grouped):
        found = correct(pool, ACCURACY, rules=fewer(pool)[:1])
        assert found is not None
        score = found.of("single").scores[LOSS]
        widths.append(np.log(score.high / score.low))

    assert widths[1] > 1.5 * widths[0]


def test_images_of_a_group_are_drawn_together_and_some_are_always_left_out() -> None:
    groups = np.repeat(np.arange(3), (4, 1, 2))

    drawn = draw_resamples(groups, 200, seed=0)

    assert drawn.shape == (200, 7)
    assert all(len(np.unique(row[groups == group])) == 1 for row in drawn for group in range(3))
    assert (drawn == 0).any(axis=1).all()


def test_one_group_leaves_every_score_open() -> None:
    pool = make_pool_of([draw_chances(20, 0.9, seed=1)], groups=np.zeros(20, dtype=int))

    found = correct(pool, ACCURACY)

    assert found is not None
    score = found.of("single").scores[ACCURACY]
    assert (score.low, score.high) == (0, 1)


def test_candidates_without_weights_count_in_the_correction_but_not_in_the_choice() -> None:
    chances = [draw_chances(100, 0.8, seed=seed) for seed in range(30)]
    lost = [make_candidate(number, selectable=number == 0) for number in range(30)]
    pool = make_pool_of(chances, candidates=lost)

    found = correct(pool, ACCURACY, rules=fewer(pool)[:1])

    assert found is not None
    one = found.of("single")
    assert one.choice.members.tolist() == [0] and found.num_candidates == 30
    alone = correct(pool.of(np.array([0])), ACCURACY)
    assert alone is not None
    assert one.scores[ACCURACY].corrected != alone.of("single").scores[ACCURACY].corrected
    nothing = make_pool_of(chances, candidates=[replace(one, selectable=False) for one in lost])
    assert correct(nothing, ACCURACY) is None


def test_one_candidate_has_the_score_of_its_images() -> None:
    pool = make_pool_of([draw_chances(60, 0.85, seed=1)])

    found = correct(pool, ACCURACY)

    assert found is not None and found.gains == ()
    score = found.of("single").scores[ACCURACY]
    assert score.corrected == pytest.approx(score.as_chosen)


@pytest.mark.parametrize(("classes", "images"), [(2, 50), (300, 120)])
def test_few_and_many_classes_end_well(classes: int, images: int) -> None:
    pool = draw_pool(trials=4, images=images, classes=classes, skill=4.0)

    found = correct(pool, "val_balanced_accuracy", rules=fewer(pool, "val_balanced_accuracy", resamples=10))

    assert found is not None
    scores = [score for one in found.rules for score in one.scores.values()]
    assert all(np.isfinite([score.corrected, score.low, score.high]).all() for score in scores)


def test_all_images_right_leaves_room_below() -> None:
    found = estimate_share(1.0, 0.0, num_groups=50)

    assert found.high == 1 and 0.9 < found.low < 0.95  # Wilson: 92.9%
    assert estimate_loss(0.0, 0.0, num_groups=50).high == 0


def test_the_smallest_difference_is_that_of_the_papers_sample_size() -> None:
    assert smallest_difference(4707, 0.06) == pytest.approx(0.01, rel=0.01)
    assert smallest_difference(1175, 0.06) == pytest.approx(0.02, rel=0.01)
    assert 0.06 < smallest_difference(120, 0.0) < 0.07  # all of eight images on one side
    assert smallest_difference(3, 0.0) == 1


def test_groups_and_disagreement_raise_the_smallest_difference() -> None:
    alike, unlike = draw_pool(images=300, shared=0.99), draw_pool(images=300, shared=0.5)
    grouped = draw_pool(images=300, shared=0.5)
    paired = Pool(
        grouped.candidates,
        np.concatenate([grouped.log_probabilities] * 2, axis=1),
        np.concatenate([grouped.labels] * 2),
        np.concatenate([grouped.groups] * 2),
        np.arange(600),
    )

    assert find_smallest_difference(alike) < find_smallest_difference(unlike)
    assert find_smallest_difference(paired) == pytest.approx(find_smallest_difference(unlike), rel=0.02)
    assert find_smallest_difference(alike.of(np.array([0]))) > 0
