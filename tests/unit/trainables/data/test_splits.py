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

    with pytest.raises(ValueError, match=r"only one image of classes 'b', 'd'.*pass --min-images 2"):
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


def make_groups(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)


def count(splits: np.ndarray, labels: np.ndarray, label: int) -> list[int]:
    return [int((splits[labels == label] == split).sum()) for split in ("train", "val", "test")]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_torn_and_the_shares_of_every_class_are_kept(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = np.unique(random.integers(0, 150, 900), return_inverse=True)[1].astype(np.int64)
    labels = random.integers(0, 3, 900)

    splits = split_images(labels, [None] * 900, seed=seed, groups=groups)

    assert all(len(set(splits[groups == group])) == 1 for group in np.unique(groups))
    for label in range(3):
        assert shares(splits[labels == label]) == pytest.approx(
            {"train": 0.7, "val": 0.2, "test": 0.1}, abs=0.03
        )


def test_images_that_are_groups_of_their_own_are_cut_as_without_groups() -> None:
    labels = make_labels(50, 31, 4)
    none = [None] * len(labels)

    alone = split_images(labels, none, seed=3, groups=np.arange(len(labels)) + 7)

    assert np.array_equal(alone, split_images(labels, none, seed=3))


def test_a_class_of_two_groups_is_in_train_and_in_val() -> None:
    labels = make_labels(40, 12)
    groups = np.concatenate([np.arange(40), np.repeat([40, 41], 6)]).astype(np.int64)

    splits = split_images(labels, [None] * 52, seed=0, groups=groups)

    assert count(splits, labels, 1) == [6, 6, 0]


def test_a_class_whose_images_are_one_group_is_refused_or_trained_on_unvalidated() -> None:
    labels, groups = make_labels(20, 5), make_groups(*[1] * 20, 5)

    with pytest.raises(ValueError, match=r"all images of class 'b' are in one group.*--min-images 1"):
        split_images(labels, [None] * 25, seed=0, groups=groups, classes=["a", "b"])
    splits = split_images(labels, [None] * 25, seed=0, groups=groups, may_lack_val=True)

    assert count(splits, labels, 1) == [5, 0, 0]


def test_a_class_of_one_image_can_be_trained_on_unvalidated() -> None:
    labels = make_labels(20, 1)

    splits = split_images(labels, [None] * 21, seed=0, may_lack_val=True)

    assert count(splits, labels, 1) == [1, 0, 0]


def test_groups_are_kept_when_val_is_cut_from_a_given_training_split() -> None:
    labels, groups = make_labels(60, 60), make_groups(*[4] * 30)
    given = (["train"] * 48 + ["test"] * 12) * 2

    splits = split_images(labels, given, seed=0, groups=groups)

    assert all(len(set(splits[groups == group])) == 1 for group in range(30))
    assert np.array_equal(splits == "test", np.array(given) == "test")
    assert (splits == "val").any()
