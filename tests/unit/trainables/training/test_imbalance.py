"""Weights, balanced epochs and over-sampling for classes of unequal size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from trainables.images.split_view import oversample
from trainables.training.imbalance import (
    EFFECTIVE_BETA,
    balanced_order,
    class_weights,
    draw_order,
)

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    weights = class_weights(LABELS, 3, "balanced")

    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_effective_weights_lie_between_equal_and_balanced_ones_in_the_published_ratio() -> None:
    weights = class_weights(LABELS, 3, "effective")

    assert weights is not None
    published = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.array([60, 30, 10]))
    np.testing.assert_allclose(weights / weights[0], published / published[0], rtol=1e-5)
    assert 1 < weights[2] / weights[0] < 6


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_weights_average_to_one_over_the_images(how: str) -> None:
    weights = class_weights(LABELS, 3, how)  # type: ignore[arg-type]

    assert weights is not None
    assert weights[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_a_class_without_an_image_weighs_nothing(how: str) -> None:
    weights = class_weights(np.array([0, 0, 2]), 4, how)  # type: ignore[arg-type]

    assert weights is not None
    assert weights[1] == weights[3] == 0
    assert weights.isfinite().all()


def test_no_weights_are_none() -> None:
    assert class_weights(LABELS, 3, "none") is None


def test_a_balanced_epoch_has_as_many_images_and_every_class_equally_often() -> None:
    order = balanced_order(LABELS, generator())

    counts = np.bincount(LABELS[order])
    assert len(order) == 100
    assert sorted(counts) == [33, 33, 34]


def test_a_balanced_epoch_repeats_an_image_only_once_all_of_its_class_were_used() -> None:
    order = balanced_order(LABELS, generator())

    uses = np.bincount(order, minlength=100)
    assert uses[LABELS == 0].max() == 1
    assert set(uses[LABELS == 1]) <= {1, 2} and set(uses[LABELS == 2]) <= {3, 4}


def test_over_the_epochs_a_balanced_sampler_shows_every_image() -> None:
    seen = {int(position) for seed in range(20) for position in balanced_order(LABELS, generator(seed))}

    assert seen == set(range(100))


def test_a_balanced_epoch_mixes_the_classes() -> None:
    halves = np.split(LABELS[balanced_order(LABELS, generator())], 2)

    assert all(np.bincount(half, minlength=3).min() > 8 for half in halves)


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_an_epochs_order_follows_from_its_generator(sampler: str) -> None:
    orders = [draw_order(LABELS, sampler, generator(seed)) for seed in (0, 0, 1)]  # type: ignore[arg-type]

    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_a_shuffled_epoch_shows_every_image_once() -> None:
    order = draw_order(LABELS, "shuffle", generator())

    assert sorted(order) == list(range(100))


def test_oversampling_brings_every_class_to_the_size_of_the_largest() -> None:
    rows, copies = oversample(LABELS)

    assert np.bincount(LABELS[rows]).tolist() == [60, 60, 60]
    assert np.array_equal(rows[:100], np.arange(100)) and not copies[:100].any()
    assert copies[100:].min() == 1


def test_no_image_is_copied_twice_before_all_of_its_class_were_copied_once() -> None:
    rows, copies = oversample(LABELS)

    assert len(set(zip(rows, copies, strict=True))) == 180  # each copy is one view
    uses = np.bincount(rows)
    assert set(uses[LABELS == 1]) == {2} and set(uses[LABELS == 2]) == {6}


def test_equally_large_classes_get_no_copies() -> None:
    rows, copies = oversample(np.array([1, 0, 0, 1]))

    assert rows.tolist() == [0, 1, 2, 3] and not copies.any()


def test_a_label_that_no_image_has_is_not_oversampled() -> None:
    rows, _ = oversample(np.array([0, 0, 3]))

    assert rows.tolist() == [0, 1, 2, 2]
