"""The rules choose the best, combine what errs on different images, and keep to what can be chosen."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.answer.greedy import compact_classes, greedy_logits, greedy_probabilities
from analysis.answer.intervals import variance_of_mean
from analysis.answer.pool import Pool
from analysis.answer.rules import (
    Choice,
    choose,
    estimate_cost,
    find_prefixes,
    fit_work,
    make_rules,
    select_ensemble,
    select_prefix_ensemble,
    select_single,
)
from analysis.answer.scores import (
    METRICS_KNOWN,
    check_metric,
    difference_errors,
    score_candidates,
    score_images,
    score_shares,
)
from analysis.comparison import make_measure
from analysis.predictions import Array, Predictions
from benchmarks.simulated.predictions import Cell, simulate
from contract.answer import Pooling, pool_log_probabilities
from contract.metrics import direction_of, ranking_metrics
from tests.simulated_pool import draw_chances, make_candidate, make_pool_of


def choose_all(pool: Pool, metric: str = "val_accuracy") -> dict[str, Choice]:
    choices = {rule.name: choose(pool, rule) for rule in make_rules(pool, metric)}
    return {name: choice for name, choice in choices.items() if choice is not None}


def alternating(size: int, *, first: bool) -> Array:
    """Surely right for every second image, undecided for the others."""
    sure = np.arange(size) % 2 == (0 if first else 1)
    return np.where(sure, 0.97, 0.45)


@pytest.mark.parametrize("metric", METRICS_KNOWN)
def test_scores_of_all_candidates_and_resamples_are_those_of_a_comparison(metric: str) -> None:
    pool = simulate(Cell(name="", trials=4, images=60, classes=7), np.random.default_rng(1)).pool
    weights = np.random.default_rng(2).integers(0, 3, (5, 60)).astype(float)

    found = score_candidates(pool, metric, weights)

    for number, log_probabilities in enumerate(pool.log_probabilities):
        measure = make_measure(Predictions(pool.ids, pool.labels, log_probabilities), metric)
        assert measure is not None
        expected = [direction_of(metric).sign * measure(one) for one in weights]
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_combination_is_scored_as_the_contract_pools_it(pooling: Pooling) -> None:
    pool = simulate(Cell(name="", trials=4, images=80, classes=7), np.random.default_rng(1)).pool
    shares = np.array([0.5, 0.0, 0.3, 0.2])

    for images in (np.arange(80), np.arange(3, 60, 2)):
        found = score_shares(pool, shares, pooling, images)

        pooled = pool_log_probabilities(pool.log_probabilities[:, images], shares, pooling)
        expected = score_images(pooled, pool.labels[images])
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4, atol=1e-5)
        assert (found.predicted == expected.predicted).all() and (found.top3 == expected.top3).all()


def test_a_metric_that_predictions_do_not_determine_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"val_accuracy, .*got 'epoch_seconds'"):
        check_metric("epoch_seconds")


def test_the_single_best_follows_the_metric_and_then_the_loss() -> None:
    right = np.array([0.6] * 9 + [0.4])
    pool = make_pool_of([right, np.where(right > 0.5, 0.9, 0.4), np.array([0.99] * 8 + [0.4] * 2)])

    by_accuracy = choose_all(pool)["single"]
    by_loss = choose_all(pool, "val_loss")["single"]

    assert by_accuracy.members.tolist() == [1]  # as accurate as the first, and surer
    assert by_loss.members.tolist() == [1]
    assert score_candidates(pool, "val_accuracy", np.ones((1, 10)))[0].tolist() == [0.9, 0.9, 0.8]


def test_of_candidates_within_one_standard_error_the_one_of_the_lowest_loss_is_chosen() -> None:
    best = np.array([0.6] * 36 + [0.4] * 4)
    surer = np.array([0.95] * 35 + [0.4] * 5)  # lacks one image; the standard error is one image, too
    far = np.array([0.99] * 30 + [0.4] * 10)

    assert choose_all(make_pool_of([best, surer, far]))["single"].members.tolist() == [1]
    assert choose_all(make_pool_of([best, far]))["single"].members.tolist() == [0]
    assert choose_all(make_pool_of([best, surer]), "val_macro_f1")["single"].members.tolist() == [1]


def test_the_error_of_a_difference_is_that_of_paired_groups_of_images() -> None:
    chances = [draw_chances(60, accuracy, seed=seed) for seed, accuracy in enumerate((0.9, 0.8, 0.6))]
    alone, grouped = make_pool_of(chances), make_pool_of(chances, groups=np.arange(60) // 4)

    for pool in (alone, grouped):
        errors = difference_errors(pool, "val_accuracy")
        for one in range(3):
            for other in range(3):
                variance = variance_of_mean(pool.right[one] - pool.right[other], pool.groups)
                assert errors[one, other] == pytest.approx(variance**0.5, abs=1e-12)
    # With as many images of each class, balanced accuracy is accuracy.
    np.testing.assert_allclose(
        difference_errors(alone, "val_balanced_accuracy"), difference_errors(alone, "val_accuracy")
    )
    assert not difference_errors(alone, "val_loss").any()
    assert not difference_errors(make_pool_of(chances, groups=np.zeros(60, dtype=int)), "val_accuracy").any()


def test_of_identical_candidates_the_cheaper_is_kept_by_every_rule() -> None:
    chances = draw_chances(80, 0.9, seed=1)
    candidates = [
        make_candidate(number, prefix="resnet18 average", cost=cost)
        for number, cost in enumerate((3.0, 1.0, 2.0))
    ]
    pool = make_pool_of([chances] * 3, candidates=candidates)

    choices = choose_all(pool)

    assert set(choices) == {"single", "prefix_ensemble", "ensemble"}
    assert all(choice.members.tolist() == [1] for choice in choices.values())


@pytest.mark.parametrize("rule", ["ensemble", "prefix_ensemble"])
def test_two_that_err_on_different_images_are_combined_and_beat_the_single_best(rule: str) -> None:
    candidates = [make_candidate(number, prefix="resnet18 average") for number in range(3)]
    poor = draw_chances(40, 0.3, seed=3)
    pool = make_pool_of(
        [alternating(40, first=True), alternating(40, first=False), poor], candidates=candidates
    )

    choices = choose_all(pool)

    combined, single = choices[rule], choices["single"]
    assert sorted(combined.members.tolist()) == [0, 1]
    np.testing.assert_allclose(combined.shares[:2], 0.5, atol=0.05)
    assert combined.scores.right.mean() == 1 > single.scores.right.mean()
    assert combined.scores.loss.mean() < single.scores.loss.mean()


def test_a_candidate_without_weights_is_never_chosen() -> None:
    chances = [draw_chances(60, accuracy, seed=4) for accuracy in (0.99, 0.9, 0.6)]
    candidates = [make_candidate(number, prefix="p", selectable=number > 0) for number in range(3)]
    pool = make_pool_of(chances, candidates=candidates)

    choices = choose_all(pool)

    assert choices["single"].members.tolist() == [1]
    assert all(0 not in choice.members for choice in choices.values())
    assert all(choice.shares.sum() == pytest.approx(1) for choice in choices.values())


def test_without_any_weights_there_is_no_choice() -> None:
    candidates = [make_candidate(number, selectable=False) for number in range(2)]
    pool = make_pool_of([draw_chances(20, 0.9, seed=1)] * 2, candidates=candidates)

    assert choose_all(pool) == {}


def test_one_candidate_has_the_single_rule_alone() -> None:
    pool = make_pool_of([draw_chances(20, 0.9, seed=1)])

    assert list(choose_all(pool)) == ["single"]


def test_the_prefix_ensemble_keeps_within_the_prefix_with_the_lowest_loss() -> None:
    candidates = [make_candidate(number, prefix="ab"[number % 2]) for number in range(6)]
    accuracies = (0.7, 0.95, 0.7, 0.95, 0.7, 0.95)
    chances = [draw_chances(90, accuracy, seed=number) for number, accuracy in enumerate(accuracies)]
    pool = make_pool_of(chances, candidates=candidates)

    choice = choose_all(pool)["prefix_ensemble"]

    assert [prefix.tolist() for prefix in find_prefixes(pool)] == [[1, 3, 5], [0, 2, 4]]
    assert len(choice.members) > 1 and set(choice.members.tolist()) <= {1, 3, 5}
    assert choice.pooling is Pooling.LOGITS


def test_without_two_candidates_of_a_prefix_there_is_no_prefix_ensemble() -> None:
    candidates = [make_candidate(number, prefix=prefix) for number, prefix in enumerate(("a", "", "b", ""))]
    pool = make_pool_of([draw_chances(40, 0.9, seed=n) for n in range(4)], candidates=candidates)

    assert list(choose_all(pool)) == ["single", "ensemble"]
    shares = select_prefix_ensemble(pool, np.ones((1, 40)))  # asked all the same, it is the best one
    assert shares[0].max() == 1


def test_greedy_selection_is_never_worse_than_the_best_and_near_the_best_weights() -> None:
    pool = simulate(Cell(name="", trials=2, images=400, spread=0.3), np.random.default_rng(3)).pool
    own = np.exp(-pool.losses).astype(np.float32)
    weights = np.ones(400)

    counts = greedy_probabilities(own, weights)

    found = -np.log(counts @ own / counts.sum()).mean()
    grid = [-np.log(share * own[0] + (1 - share) * own[1]).mean() for share in np.linspace(0, 1, 101)]
    assert found <= min(grid[0], grid[-1]) + 1e-6
    assert found == pytest.approx(min(grid), abs=2e-4)


def test_joined_classes_choose_what_all_classes_choose() -> None:
    pool = simulate(Cell(name="", trials=5, images=150, classes=40, skill=4), np.random.default_rng(5)).pool
    own = -pool.losses.astype(np.float32)
    weights = np.ones(150)

    whole = greedy_logits(own, compact_classes(pool.log_probabilities, most=40), weights)
    joined = compact_classes(pool.log_probabilities, most=8)

    assert joined.shape == (9, 5, 150)
    np.testing.assert_allclose(np.exp(joined).sum(axis=0), 1, atol=1e-4)
    shares = greedy_logits(own, joined, weights)
    np.testing.assert_allclose(shares / shares.sum(), whole / whole.sum(), atol=0.15)


def test_three_hundred_classes_with_some_absent_are_combined() -> None:
    simulated = simulate(Cell(name="", trials=6, images=200, classes=300, skill=4), np.random.default_rng(6))
    choices = choose_all(simulated.pool, "val_macro_f1")

    assert len(np.unique(simulated.pool.labels)) < 300
    assert all(np.isfinite(choice.scores.loss).all() for choice in choices.values())
    assert choices["ensemble"].scores.loss.mean() <= choices["single"].scores.loss.mean()


def test_certain_errors_keep_losses_finite() -> None:
    pool = make_pool_of([draw_chances(30, 0.9, seed=1), draw_chances(30, 0.8, seed=2)])
    pool.log_probabilities[0, 3] = [-np.inf, -np.inf, -np.inf]
    pool.log_probabilities[0, 3, (pool.labels[3] + 1) % 3] = 0

    choices = choose_all(pool)

    assert np.isfinite(pool.losses).all()
    assert np.isfinite(choices["ensemble"].scores.loss).all()


def test_images_that_count_twice_are_as_good_as_two_images() -> None:
    pool = simulate(Cell(name="", trials=6, images=50), np.random.default_rng(7)).pool
    weights = np.random.default_rng(8).integers(0, 3, (1, 50)).astype(float)
    rows = np.repeat(np.arange(50), weights[0].astype(int))
    written = Pool(
        pool.candidates, pool.log_probabilities[:, rows], pool.labels[rows], np.arange(len(rows)), rows
    )
    once = np.ones((1, len(rows)))

    np.testing.assert_allclose(select_ensemble(pool, weights), select_ensemble(written, once))
    np.testing.assert_allclose(select_prefix_ensemble(pool, weights), select_prefix_ensemble(written, once))
    np.testing.assert_allclose(
        select_single(pool, weights, metric="val_macro_f1"),
        select_single(written, once, metric="val_macro_f1"),
    )


def test_members_of_one_prefix_cost_one_pass() -> None:
    candidates = [
        make_candidate(number, prefix=prefix, cost=cost)
        for number, (prefix, cost) in enumerate((("a", 5.0), ("a", 4.0), ("", 3.0), ("", 2.0)))
    ]
    pool = make_pool_of([draw_chances(20, 0.9, seed=n) for n in range(4)], candidates=candidates)

    assert estimate_cost(pool, np.array([0, 1])) == 5
    assert estimate_cost(pool, np.array([0, 1, 2, 3])) == 10


def test_work_is_bounded_by_fewer_candidates_and_then_fewer_resamples() -> None:
    assert fit_work(200 * 5) == (20, 200)
    assert fit_work(10_000 * 9) == (13, 200)
    preselected, resamples = fit_work(100_000 * 9)
    assert preselected == 5 and 50 <= resamples <= 200
    assert fit_work(10**8) == (5, 50)


def test_every_ranking_metric_of_images_and_classes_is_known() -> None:
    pool = make_pool_of([draw_chances(30, 0.9, seed=n) for n in range(2)])

    for metric in set(ranking_metrics()) & set(METRICS_KNOWN):
        assert "single" in choose_all(pool, metric)
