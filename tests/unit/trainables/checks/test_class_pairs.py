"""Classes that a classifier cannot tell apart are named, others are not."""

from __future__ import annotations

import numpy as np

from trainables.checks.class_pairs import find_class_pairs


def test_doubles_are_named_and_classes_that_are_told_apart_are_not() -> None:
    labels = np.repeat(np.arange(4), 20)
    predicted = labels.copy()
    predicted[:10] = 1  # half of class 0
    predicted[20:28] = 0
    predicted[40:43] = 3  # three of twenty

    pairs = find_class_pairs(labels, predicted)

    assert [pair.classes for pair in pairs] == [(0, 1)]
    assert pairs[0].confusion == 18 / 40
    assert "18 of their 40 images" in pairs[0].why


def test_images_without_a_prediction_and_a_few_confusions_do_not_count() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])

    assert find_class_pairs(labels, np.full(6, -1)) == []
    assert find_class_pairs(labels, np.array([1, 1, 1, 1, 1, 1])) == []
    assert find_class_pairs(labels, labels) == []
