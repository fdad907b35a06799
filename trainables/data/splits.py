"""Splits images into train, val and test: stratified, seeded, every class in val and no group torn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.data.class_mapping import InUse, use_classes
from trainables.data.datasets import ImageListing
from trainables.data.groups import join_groups
from trainables.data.views import draw_uniform

VAL_SHARE = 0.2
TEST_SHARE = 0.1


def split_images(
    labels: NDArray[np.int64],
    given: Sequence[str | None],
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    groups: NDArray[np.int64] | None = None,
    may_lack_val: bool = False,
) -> NDArray[np.str_]:
    """Give every image its split, "train", "val" or "test"; splits that came with the data are kept.

    Data without splits are cut 70/20/10. A missing val is cut from train, and so is a missing test if val
    is missing too; data that come as train and val get no test split.

    Args:
        groups: group of every image; what is cut here keeps each group in one split. None = no groups.
        may_lack_val: train on classes that cannot be validated, having one image or one group, instead of
            refusing them.

    Raises:
        ValueError: classes with too few images (named by `classes`, else by number).
    """
    pool = _find_pool(given)
    if len(pool) and not may_lack_val:
        numbers = np.arange(len(pool)) if groups is None else np.unique(groups[pool], return_inverse=True)[1]
        _check_pool(labels[pool], numbers, int(labels.max()) + 1, classes)
    splits = _cut_images(labels, given, seed=seed, groups=groups)
    _check_trained(labels, splits, classes)
    return splits


def split_in_use(
    listing: ImageListing, *, seed: int, groups: NDArray[np.int64] | None, min_images: int | None
) -> tuple[InUse, NDArray[np.str_]]:
    """Split the images of a listing, and return those that are used, with their splits [N used].

    Images whose classes --classes renames or drops are cut by the classes that the data have.

    Args:
        groups: group of every listed image.
        min_images: None = every class, or every name by --classes, must be validated.

    Raises:
        ValueError: the images cannot be split.
    """
    may_lack_val = min_images is not None
    used = use_classes(listing, min_images)
    if not listing.renamed:
        labels, given, classes = listing.labels, listing.splits, listing.classes
        return used, split_images(
            labels, given, seed=seed, classes=classes, groups=groups, may_lack_val=may_lack_val
        )
    splits = _cut_images(listing.labels, listing.splits, seed=seed, groups=groups)[used.keep]
    _check_trained(used.listing.labels, splits, used.listing.classes)
    labels = used.listing.labels
    unvalidated = sorted(set(labels.tolist()) - set(labels[splits == "val"].tolist()))
    if unvalidated and len(_find_pool(listing.splits)) and not may_lack_val:
        raise ValueError(
            f"no validation image of {_name_classes(unvalidated, used.listing.classes)}: images are cut by"
            " the classes before --classes, and those it stands for have one image or one group each: add"
            " images, drop them by an empty name, or pass --min-images 1 to train on them unvalidated"
        )
    return used, splits


def split_listing(
    listing: ImageListing, *, seed: int, min_images: int | None = None
) -> tuple[InUse, NDArray[np.str_]]:
    """Split listed images before any is opened, so that copies are not known yet: see `split_in_use`."""
    groups = join_groups(len(listing.paths), [listing.groups]) if listing.groups else None
    return split_in_use(listing, seed=seed, groups=groups, min_images=min_images)


def _find_pool(given: Sequence[str | None]) -> NDArray[np.int64]:
    """Images that are to be cut; none where the data came with a validation split."""
    if "val" in given:
        return np.zeros(0, dtype=np.int64)
    return np.array([at for at, split in enumerate(given) if split in (None, "", "train")], dtype=np.int64)


def _cut_images(
    labels: NDArray[np.int64],
    given: Sequence[str | None],
    *,
    seed: int,
    groups: NDArray[np.int64] | None,
) -> NDArray[np.str_]:
    """Give every image its split, though a class may lack one: see `split_images`."""
    splits = np.array([split or "" for split in given], dtype="<U5")
    pool = _find_pool(given)
    if len(pool):
        numbers = np.arange(len(pool)) if groups is None else np.unique(groups[pool], return_inverse=True)[1]
        shares = {"val": VAL_SHARE, "test": 0.0 if (splits == "test").any() else TEST_SHARE}
        splits[pool] = _cut(labels[pool], numbers, shares=shares, seed=seed)
    else:
        splits[splits == ""] = "train"
    return splits


def _check_trained(
    labels: NDArray[np.int64], splits: NDArray[np.str_], classes: Sequence[str] | None
) -> None:
    untrained = sorted(set(labels.tolist()) - set(labels[splits == "train"].tolist()))
    if untrained:
        raise ValueError(
            f"no training image of {_name_classes(untrained, classes)}; add some to the train"
            " split, or remove the class"
        )


def _cut(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, shares: dict[str, float], seed: int
) -> NDArray[np.str_]:
    """Cut the images at random: first the groups of several images, then class by class the single ones.

    scikit-learn's StratifiedGroupKFold cuts equal folds, with other random numbers in other versions. Here
    the shares differ, images without groups are cut as they always were, and a seed means the same for ever.
    """
    splits = np.full(len(labels), "train", dtype="<U5")
    order = draw_uniform(seed, "split", 0, np.arange(len(labels)), 1)[:, 0]
    sizes = np.bincount(groups)
    is_single = sizes[groups] == 1
    if not is_single.all():
        _place_groups(labels, groups, order, splits, shares=shares)
    # Carried from class to class, so that many small classes still add up to the shares.
    val_due = test_due = 0.0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        placed = splits[members[~is_single[members]]]
        val_due += shares["val"] * len(members) - (placed == "val").sum()
        test_due += shares["test"] * len(members) - (placed == "test").sum()
        single = members[is_single[members]]
        single = single[np.argsort(order[single], kind="stable")]
        # One image at least is for training, and one for validation.
        free = len(single) - (not (placed == "train").any())
        num_val = max(0, min(max(not (placed == "val").any(), round(val_due)), free))
        num_test = max(0, min(round(test_due), free - num_val))
        val_due -= num_val
        test_due -= num_test
        splits[single[:num_val]] = "val"
        splits[single[num_val : num_val + num_test]] = "test"
    if not is_single.all():
        _give_every_class_its_splits(labels, groups, splits)
    return splits


def _place_groups(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    order: NDArray[np.float64],
    splits: NDArray[np.str_],
    *,
    shares: dict[str, float],
) -> None:
    """Place the groups of several images, the largest first, each where its classes need it most.

    Need is the change of the chi-square distance between the images of a class that a split has and those
    that are due to it.
    """
    all_shares = {"train": 1.0 - sum(shares.values()), **shares}
    names = [name for name, share in all_shares.items() if share > 0]
    due = np.outer([all_shares[name] for name in names], np.bincount(labels))
    has = np.zeros_like(due)
    for members in _groups_of_several(groups, order):
        present, counts = np.unique(labels[members], return_counts=True)
        change = (counts * (2 * (has[:, present] - due[:, present]) + counts) / due[:, present]).sum(axis=1)
        chosen = int(np.argmin(change))
        has[chosen, present] += counts
        splits[members] = names[chosen]


def _groups_of_several(groups: NDArray[np.int64], order: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Images of each group of several, the largest groups first, equal ones at random."""
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    found = [members for members in np.split(by_group, starts[1:]) if len(members) > 1]
    return sorted(found, key=lambda members: (-len(members), order[members[0]]))


def _give_every_class_its_splits(
    labels: NDArray[np.int64], groups: NDArray[np.int64], splits: NDArray[np.str_]
) -> None:
    """Move whole groups so that a class of two or more groups has one in train and one in val."""
    for wanted in ("train", "val"):
        for label in np.unique(labels):
            has = labels == label
            if (splits[has] == wanted).any():
                continue
            candidates = [np.flatnonzero(groups == group) for group in np.unique(groups[has])]
            movable = [members for members in candidates if _can_move(members, labels, splits, wanted)]
            if movable:
                # From test first, since a class need not be there; then the smallest group.
                best = min(
                    movable, key=lambda members: (splits[members[0]] != "test", len(members), members[0])
                )
                splits[best] = wanted


def _can_move(
    members: NDArray[np.int64], labels: NDArray[np.int64], splits: NDArray[np.str_], wanted: str
) -> bool:
    """True if every class of the group keeps an image in the split that the group would leave."""
    source = splits[members[0]]
    if source == "test":
        return True
    if source == wanted:
        return False
    stays = np.ones(len(labels), dtype=np.bool_)
    stays[members] = False
    left = set(labels[stays & (splits == source)].tolist())
    # A class that has a group in val only must give it to train.
    return wanted == "train" or left.issuperset(labels[members].tolist())


def _check_pool(
    labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int, classes: Sequence[str] | None
) -> None:
    """Check that every class can be in train and in val.

    Raises:
        ValueError: a class has one image, or one group.
    """
    advice = (
        "add images, remove the class, or pass --min-images 2 to leave it out, 1 to train on it unvalidated"
    )
    single = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 1).tolist()
    if single:
        raise ValueError(
            f"only one image of {_name_classes(single, classes)}; a class needs two or more,"
            f" one to train and one to validate: {advice}"
        )
    pairs = np.unique(np.stack([labels, groups]), axis=1)[0]
    together = np.flatnonzero(np.bincount(pairs, minlength=num_classes) == 1).tolist()
    if together:
        raise ValueError(
            f"all images of {_name_classes(together, classes)} are in one group, or copies of one image,"
            " which cannot be in train and val at once: add images of another group, remove the class,"
            " or pass --min-images 1 to train on it unvalidated"
        )


def _name_classes(labels: Sequence[int], classes: Sequence[str] | None) -> str:
    found = ", ".join(repr(classes[label]) if classes else str(label) for label in labels)
    return f"class {found}" if len(labels) == 1 else f"classes {found}"
