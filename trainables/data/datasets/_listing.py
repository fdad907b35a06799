"""ImageListing: which image files there are, their classes, and the split they came with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".avif",
    )
)
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (hot)


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The images of a source, in a stable order."""

    source: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    """Positions in `classes`."""

    classes: tuple[str, ...]
    splits: tuple[str | None, ...]
    """"train", "val" or "test"; None = still to be split."""


def make_listing(source: str, rows: Sequence[tuple[Path, str, str | None]]) -> ImageListing:
    """Build a listing from (path, class name, split) rows, classes in sorted order.

    Raises:
        ValueError: fewer than two classes.
    """
    classes = sort_class_names({name for _, name, _ in rows})
    if len(classes) < 2:
        raise ValueError(
            f"{source}: only one class, {classes[0]!r}; a classifier needs at least two (one folder a class)"
        )
    position = {name: index for index, name in enumerate(classes)}
    return ImageListing(
        source=source,
        paths=tuple(path for path, _, _ in rows),
        labels=np.array([position[name] for _, name, _ in rows], dtype=np.int64),
        classes=classes,
        splits=tuple(split for _, _, split in rows),
    )


def sort_class_names(names: set[str]) -> tuple[str, ...]:
    """Whole numbers by value ("2" before "10"), everything else by code point."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
