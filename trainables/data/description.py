"""Says in a few lines how a source of images was understood: classes, splits, groups, what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contract.files import printable
from trainables.data.datasets import ImageListing, Note
from trainables.data.groups import join_groups
from trainables.data.manifest import Manifest

MOST_CLASSES = 12
"""Classes that are listed; of more, the largest and the smallest."""

SPLITS = ("train", "val", "test")


def describe_listing(source: str, listing: ImageListing, splits: NDArray[np.str_]) -> list[str]:
    """Describe what was listed, with the split that it would get: see `_describe`."""
    groups = join_groups(len(listing.paths), [listing.groups]) if listing.groups else None
    return _describe(source, listing.classes, listing.labels, splits, groups, listing.notes)


def describe_manifest(source: str, manifest: Manifest, *, notes: Sequence[Note]) -> list[str]:
    """Describe the images of a study, with the notes on their listing: see `_describe`."""
    groups, found = manifest.groups, [*notes, *manifest.notes]
    return _describe(source, manifest.classes, manifest.labels, manifest.splits, groups, found)


def _describe(
    source: str,
    classes: Sequence[str],
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
    groups: NDArray[np.int64] | None,
    notes: Sequence[Note],
) -> list[str]:
    """Describe classes by name with the images of each split, the groups, and every note: one line each.

    Args:
        labels: class of every image [N].
        splits: split of every image [N].
        groups: group of every image [N].
    """
    counts = [np.bincount(labels[splits == split], minlength=len(classes)) for split in SPLITS]
    sums = ", ".join(f"{count.sum():,} {split}" for split, count in zip(SPLITS, counts, strict=True))
    lines = [f"data: {source}, {len(classes)} classes, {sums}", _describe_classes(classes, counts)]
    sizes = np.unique(groups, return_counts=True)[1] if groups is not None else np.ones(0)
    several = sizes[sizes > 1]
    if len(several):
        lines.append(
            f"groups: {several.sum():,} images in {len(several):,} groups of 2 to {several.max()},"
            " kept in one split each"
        )
    return [*lines, *(f"{note.kind}: {note.text}" for note in notes)]


def _describe_classes(classes: Sequence[str], counts: Sequence[NDArray[np.int64]]) -> str:
    """List classes as "rose 449/128/64": images for train, val and test."""
    total = np.sum(counts, axis=0)
    shown = list(range(len(classes)))
    if len(classes) > MOST_CLASSES:
        by_size = np.argsort(-total, kind="stable").tolist()
        shown = by_size[: MOST_CLASSES // 2] + by_size[-MOST_CLASSES // 2 :]
    listed = ", ".join(
        f"{printable(classes[label])} {'/'.join(str(count[label]) for count in counts)}" for label in shown
    )
    rest = "" if len(shown) == len(classes) else f"; {len(classes) - len(shown)} more between them in size"
    return f"classes (train/val/test): {listed}{rest}"
