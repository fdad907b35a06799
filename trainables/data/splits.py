"""Splits images into train, val and test: stratified and seeded, with every class in val."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.views import draw_uniform

VAL_SHARE = 0.2
TEST_SHARE = 0.1


def split_images(
    labels: NDArray[np.int64],
    given: Sequence[str | None],
    *,
    seed: int,
    classes: Sequence[str] | None = None,
) -> NDArray[np.str_]:
    """Give every image its split, "train", "val" or "test"; splits that came with the data are kept.

    Data without splits are cut 70/20/10. A missing val is cut from train, and so is a missing test if val
    is missing too; data that come as train and val get no test split.

    Raises:
        ValueError: classes with too few images (named by `classes`, else by number).
    """
    splits = np.array(["" if split is None else split for split in given], dtype="<U5")
    if (splits == "val").any():
        splits[splits == ""] = "train"
    else:
        pool = np.flatnonzero((splits == "") | (splits == "train"))
        _check_pool(labels[pool], int(labels.max()) + 1, classes)
        splits[pool] = _cut(
            labels[pool], test_share=0.0 if (splits == "test").any() else TEST_SHARE, seed=seed
        )
    untrained = sorted(set(labels.tolist()) - set(labels[splits == "train"].tolist()))
    if untrained:
        raise ValueError(
            f"no training image of {_name_classes(untrained, classes)}; add some to the train"
            " split, or remove the class"
        )
    return splits


def _cut(labels: NDArray[np.int64], *, test_share: float, seed: int) -> NDArray[np.str_]:
    """Cut the images at random, class by class; each class keeps at least one training image."""
    splits = np.full(len(labels), "train", dtype="<U5")
    order = draw_uniform(seed, "split", 0, np.arange(len(labels)), 1)[:, 0]
    # Carried from class to class, so that many small classes still add up to the shares.
    val_due = test_due = 0.0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(order[members], kind="stable")]
        val_due += VAL_SHARE * len(members)
        test_due += test_share * len(members)
        num_val = min(max(1, round(val_due)), len(members) - 1)
        num_test = min(max(0, round(test_due)), len(members) - 1 - num_val)
        val_due -= num_val
        test_due -= num_test
        splits[members[:num_val]] = "val"
        splits[members[num_val : num_val + num_test]] = "test"
    return splits


def _check_pool(labels: NDArray[np.int64], num_classes: int, classes: Sequence[str] | None) -> None:
    single = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 1).tolist()
    if single:
        raise ValueError(
            f"only one image of {_name_classes(single, classes)}; a class needs two or more,"
            " one to train and one to validate: add images, or remove the class"
        )


def _name_classes(labels: Sequence[int], classes: Sequence[str] | None) -> str:
    found = ", ".join(repr(classes[label]) if classes else str(label) for label in labels)
    return f"class {found}" if len(labels) == 1 else f"classes {found}"
