"""Predicted classes survive packing, and take few bytes."""

import numpy as np
import pytest

from contract.predictions import (
    MOST_DENSE,
    MOST_PREDICTED,
    pack_classes,
    pack_log_probabilities,
    unpack_classes,
    unpack_log_probabilities,
)


@pytest.mark.parametrize("num_classes", [1, 2, 256, 257, 65_536, 65_537])
def test_classes_survive_packing(num_classes: int) -> None:
    classes = np.random.default_rng(0).integers(num_classes, size=50)
    classes[0] = num_classes - 1

    assert np.array_equal(unpack_classes(pack_classes(classes)), classes)


def test_no_image_at_all_can_be_packed() -> None:
    assert len(unpack_classes(pack_classes(np.empty(0, dtype=np.int64)))) == 0


def test_of_many_images_the_first_are_kept() -> None:
    classes = np.random.default_rng(0).integers(10, size=MOST_PREDICTED + 5)

    assert np.array_equal(unpack_classes(pack_classes(classes)), classes[:MOST_PREDICTED])


def test_ten_thousand_images_of_a_hundred_classes_take_nine_kilobytes() -> None:
    assert len(pack_classes(np.random.default_rng(0).integers(100, size=10_000))) < 9_000


def log_softmax(num_images: int, num_classes: int, *, scale: float) -> np.ndarray:
    logits = scale * np.random.default_rng(0).normal(size=(num_images, num_classes))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def test_log_probabilities_of_few_classes_are_stored_as_they_are() -> None:
    values = log_softmax(20, MOST_DENSE, scale=2)

    packed = pack_log_probabilities(values, np.zeros(20, dtype=np.int64))

    assert list(packed) == ["log_probabilities"]
    assert np.array_equal(unpack_log_probabilities(packed), values)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_of_3000_classes_what_metrics_need_survives_in_a_twentieth_of_the_bytes(scale: float) -> None:
    values = log_softmax(2100, 3000, scale=scale)
    labels = np.random.default_rng(1).integers(3000, size=2100)

    packed = pack_log_probabilities(values, labels)
    found = unpack_log_probabilities(packed)

    assert sum(array.nbytes for array in packed.values()) < values.nbytes / 19
    rows = np.arange(2100)
    assert np.array_equal(found[rows, labels], values[rows, labels])
    assert np.array_equal(np.argsort(-found, axis=1)[:, :3], np.argsort(-values, axis=1)[:, :3])
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)
    assert np.abs(np.exp(found) - np.exp(values)).max() < 0.01


def test_equally_likely_classes_keep_their_order_and_sure_answers_stay_finite() -> None:
    values = np.full((2, 900), -np.log(900), dtype=np.float32)
    values[1] = -900.0
    values[1, 700] = 0.0

    found = unpack_log_probabilities(pack_log_probabilities(values, np.array([899, 3])))

    assert found.argmax(axis=1).tolist() == [0, 700]
    np.testing.assert_allclose(found, values, rtol=1e-6)
