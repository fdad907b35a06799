"""More photos: a curve that still rises is told from one that has ended, and from noise."""

from __future__ import annotations

import json

import numpy as np

from analysis.calibration.more_photos import PhotoCurve, measure_photo_curve


def measure(
    each: int, *, noise: float, dimensions: int = 60, num_val: int = 600, copies: int = 1, seed: int = 0
) -> PhotoCurve:
    """Curve of three classes around directions of their own, each image `copies` times."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(5).normal(size=(3, dimensions))
    sets = []
    for num in (3 * each, num_val):
        labels = np.arange(num) % 3
        features = directions[labels] + noise * generator.normal(size=(num, dimensions))
        repeated = np.repeat(np.arange(num), copies)
        sets.append((features[repeated].astype(np.float32), labels[repeated], repeated))
    return measure_photo_curve(*sets[0], *sets[1], num_classes=3, seed=seed)


def test_a_curve_that_still_rises_says_that_more_photos_help() -> None:
    curve = measure(20, noise=3.0)

    accuracies = [one.accuracy for one in curve.shares]
    assert accuracies == sorted(accuracies) and curve.gain > 0.03
    assert curve.helps and curve.describe().endswith("more photos would help.")


def test_a_curve_that_has_ended_says_so() -> None:
    curve = measure(400, noise=0.8)

    assert not curve.helps and curve.describe().endswith("more photos of this kind would hardly help.")


def test_few_validation_images_leave_it_open() -> None:
    curve = measure(60, noise=3.0, num_val=24)

    assert not curve.helps and "within noise" in curve.describe()


def test_labels_that_mean_nothing_rarely_make_photos_help() -> None:
    generator = np.random.default_rng(0)
    helps = []
    for seed in range(40):
        features = generator.normal(size=(2, 300, 20)).astype(np.float32)
        labels, val_labels = generator.integers(0, 3, (2, 300))
        groups = np.arange(300)
        curve = measure_photo_curve(
            features[0], labels, groups, features[1], val_labels, groups, num_classes=3, seed=seed
        )
        helps.append(curve.helps)

    assert sum(helps) <= 3


def test_shares_are_of_equal_size_and_drawn_from_each_class() -> None:
    curve = measure(40, noise=3.0)

    assert [(one.share, one.num_images, one.num_draws) for one in curve.shares] == [
        (0.25, 30, 4),
        (0.5, 60, 6),
        (1.0, 120, 1),
    ]
    assert curve.shares[0].spread > 0 and curve.shares[2].spread == 0


def test_copies_are_drawn_together() -> None:
    """Ten copies of each image in training bring what the images bring, and widen nothing."""
    alone, copied = measure(20, noise=3.0), measure(20, noise=3.0, copies=10)

    assert copied.shares[0].accuracy < alone.shares[2].accuracy
    assert abs(copied.gain - alone.gain) < 0.05
    assert copied.high - copied.low > 0.6 * (alone.high - alone.low)


def test_too_little_to_judge_by_is_said() -> None:
    few, no_val = measure(3, noise=1.0), measure(30, noise=1.0, num_val=5)

    assert few.shares == () and "9 training images of 3 classes are too few" in few.describe()
    assert no_val.shares == () and "5 groups of validation images are too few" in no_val.describe()


def test_the_same_seed_gives_the_same_curve_and_json() -> None:
    first, second = measure(20, noise=2.0), measure(20, noise=2.0)

    assert first == second
    assert json.loads(json.dumps(first.as_values()))["helps"] == first.helps
