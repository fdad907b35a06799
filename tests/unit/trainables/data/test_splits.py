"""Splitting images into train, val and test."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.data.splits import split_images


def make_labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def shares(splits: np.ndarray) -> dict[str, float]:
    return {split: float((splits == split).mean()) for split in ("train", "val", "test")}


def test_images_without_parts_are_cut_70_20_10_in_every_class() -> None:
    labels = make_labels(598, 799, 594, 549, 686)

    splits = split_images(labels, [None] * len(labels), seed=0)

    for label in range(5):
        assert shares(splits[labels == label]) == pytest.approx(
            {"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.01
        )


def test_the_cut_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    labels = make_labels(50, 50)
    none = [None] * 100

    first = split_images(labels, none, seed=1)

    assert np.array_equal(first, split_images(labels, none, seed=1))
    assert not np.array_equal(first, split_images(labels, none, seed=2))


@pytest.mark.parametrize("count", range(2, 12))
def test_every_class_has_a_training_and_a_validation_image(count: int) -> None:
    labels = make_labels(*[count] * 30)

    splits = split_images(labels, [None] * len(labels), seed=0)

    assert set(labels[splits == "train"]) == set(labels[splits == "val"]) == set(range(30))


def test_small_classes_still_add_up_to_the_shares() -> None:
    labels = make_labels(*[6] * 50)

    splits = split_images(labels, [None] * 300, seed=0)

    assert shares(splits) == pytest.approx({"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.02)


def test_classes_of_one_image_are_all_named() -> None:
    labels = make_labels(5, 1, 4, 1)

    with pytest.raises(ValueError, match=r"only one image of classes 'b', 'd'.*add images, or remove"):
        split_images(labels, [None] * 11, seed=0, classes=["a", "b", "c", "d"])


def test_given_parts_are_kept() -> None:
    labels = make_labels(4, 4)
    given = ["train", "train", "val", "test"] * 2

    splits = split_images(labels, given, seed=0)

    assert splits.tolist() == given


def test_a_missing_validation_part_is_cut_from_the_training_part_alone() -> None:
    labels = make_labels(60, 60)
    given = (["train"] * 50 + ["test"] * 10) * 2

    splits = split_images(labels, given, seed=0)

    assert np.array_equal(splits == "test", np.array(given) == "test")
    assert (splits == "val").sum() == 20


def test_unassigned_images_beside_a_given_validation_part_are_for_training() -> None:
    labels = make_labels(3, 3)

    splits = split_images(labels, [None, "train", "val"] * 2, seed=0)

    assert splits.tolist() == ["train", "train", "val"] * 2


def test_a_class_without_training_images_is_refused() -> None:
    labels = make_labels(2, 2)

    with pytest.raises(ValueError, match="no training image of class 'b'"):
        split_images(labels, ["train", "val", "val", "test"], seed=0, classes=["a", "b"])
