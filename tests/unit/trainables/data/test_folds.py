"""Folds: of about equal size and mix of classes, no group torn, and nothing held out that must be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.data.folds import ALWAYS_TRAINED, cut_folds


def test_every_image_is_in_one_fold_and_classes_are_shared_out_evenly() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 5])

    folds = cut_folds(labels, np.arange(80), num_folds=5, seed=0)

    for label, images in ((0, 10), (1, 5), (2, 1)):
        assert np.bincount(folds[labels == label], minlength=5).tolist() == [images] * 5


def test_no_group_is_torn_and_folds_stay_about_equal() -> None:
    random = np.random.default_rng(0)
    groups = np.sort(random.integers(0, 40, 300))
    labels = random.integers(0, 4, 300)

    folds = cut_folds(labels, groups, num_folds=4, seed=1)

    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    assert np.bincount(folds).min() > 60
    counts = np.stack([np.bincount(labels[folds == fold], minlength=4) for fold in range(4)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() < 15


def test_the_same_seed_cuts_the_same_and_another_one_differently() -> None:
    labels, groups = np.arange(60) % 3, np.arange(60)

    first, again, other = (cut_folds(labels, groups, num_folds=3, seed=seed) for seed in (0, 0, 1))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_only_group_of_a_class_is_never_held_out() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    groups = np.array([0, 1, 2, 3, 4, 4])

    folds = cut_folds(labels, groups, num_folds=2, seed=0)

    assert folds[4:].tolist() == [ALWAYS_TRAINED] * 2
    assert sorted(folds[:4].tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("num_folds", [1, 5])
def test_too_few_groups_or_folds_are_refused(num_folds: int) -> None:
    with pytest.raises(ValueError, match="--folds"):
        cut_folds(np.zeros(8, dtype=np.int64), np.arange(8) // 2, num_folds=num_folds, seed=0)
