"""Predicted classes survive packing, and take few bytes."""

import numpy as np
import pytest

from contract.predictions import MOST_PREDICTED, pack_classes, unpack_classes


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
