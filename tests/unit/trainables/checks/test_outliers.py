"""Foreign images are named by their features or their looks, kinds that occur several times among them."""

from __future__ import annotations

import numpy as np

from trainables.checks.looks import describe_looks
from trainables.checks.outliers import find_outliers


def sample(num: int, *, seed: int) -> np.ndarray:
    """Positive features [num, 48] of three classes."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).gamma(1.0, 1.0, size=(3, 48))
    return np.abs(centres[random.integers(0, 3, num)] + 0.3 * random.normal(size=(num, 48))).astype(
        np.float32
    )


def test_foreign_features_are_named_though_some_are_alike() -> None:
    foreign = np.random.default_rng(5).gamma(1.0, 1.0, size=(2, 48)).astype(np.float32).repeat(3, axis=0)
    features = np.concatenate([sample(300, seed=1), foreign + 0.01 * np.arange(48, dtype=np.float32)])
    found = find_outliers(features, np.arange(306))
    assert {outlier.row for outlier in found[:6]} == set(range(300, 306))
    assert len(found) < 6 + 0.06 * 300


def test_grey_pictures_among_colour_ones_are_named_by_their_looks() -> None:
    random = np.random.default_rng(0)
    coloured = random.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    grey = random.integers(0, 256, (2, 64, 64, 1), dtype=np.uint8).repeat(3, axis=3)
    looks = describe_looks(np.concatenate([coloured, grey]), np.arange(82))
    found = find_outliers(sample(82, seed=2), np.arange(82), looks=looks)
    assert {80, 81} <= {outlier.row for outlier in found}


def test_a_copy_does_not_vouch_for_a_foreign_image() -> None:
    foreign = np.random.default_rng(9).gamma(1.0, 1.0, size=(1, 48)).astype(np.float32).repeat(12, axis=0)
    features = np.concatenate([sample(300, seed=3), foreign])
    groups = np.concatenate([np.arange(300), np.full(12, 300)])
    assert set(range(300, 312)) <= {outlier.row for outlier in find_outliers(features, groups)}


def test_few_or_equal_images_are_not_judged_to_be_foreign() -> None:
    assert find_outliers(sample(10, seed=0), np.arange(10)) == []
    assert find_outliers(np.ones((50, 8), np.float32), np.arange(50)) == []
    assert find_outliers(sample(40, seed=0), np.zeros(40, np.int64)) == []
