"""Manifest: every image of a study with its number, label and split; written as data.csv."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.files import write_aside
from trainables.data.datasets._listing import ImageListing
from trainables.data.splits import split_images

log = logging.getLogger(__name__)

HEADER = ("id", "path", "label", "split")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The images a study uses; an image's number is its position here and its row in the image store."""

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    classes: tuple[str, ...]
    contents: str
    """Hash of the images with their class names, in any order: seeds and splits of the same data share it."""
    fingerprint: str
    """Hash of the contents with their split: studies that share it can be compared image by image."""

    def __len__(self) -> int:
        return len(self.paths)

    def indices(self, split: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.splits == split).astype(np.int64)

    def write_csv(self, path: Path) -> None:
        """Write data.csv: id, path, label and split of every image."""
        with write_aside(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(HEADER)
            rows = zip(self.paths, self.labels.tolist(), self.splits.tolist(), strict=True)
            writer.writerows((number, *row) for number, row in enumerate(rows))


def make_manifest(
    listing: ImageListing, digests: Sequence[str], *, seed: int, keep: NDArray[np.bool_] | None = None
) -> Manifest:
    """Leave out the images that are not to be kept, split the rest, and hash it with and without the split.

    Args:
        digests: content hash of every listed file, as the image store found it.
        keep: which images to use; None = all.

    Raises:
        ValueError: what is left cannot be split.
    """
    kept = list(range(len(listing.paths))) if keep is None else np.flatnonzero(keep).tolist()
    labels = listing.labels[kept]
    lost = sorted(set(listing.labels.tolist()) - set(labels.tolist()))
    if lost:
        raise ValueError(
            f"{listing.source}: no readable image of {', '.join(listing.classes[i] for i in lost)}"
        )
    splits = split_images(labels, [listing.splits[i] for i in kept], seed=seed, classes=listing.classes)
    _report_copies(listing, kept, [digests[row] for row in kept], splits)
    names = [listing.classes[label] for label in labels]
    contents = sorted(f"{digests[row]} {name}" for row, name in zip(kept, names, strict=True))
    ordered = hashlib.sha256("\0".join(listing.classes).encode())
    for row, label, split in zip(kept, labels, splits, strict=True):
        ordered.update(f"\n{digests[row]} {label} {split}".encode())
    return Manifest(
        paths=tuple(listing.paths[i] for i in kept),
        labels=labels,
        splits=splits,
        classes=listing.classes,
        contents=hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16],
        fingerprint=ordered.hexdigest()[:16],
    )


def read_manifest(path: Path, classes: Sequence[str]) -> Manifest:
    """Read data.csv back; class names and hashes stand in study.json, and the hashes are empty here.

    Raises:
        ValueError: not a data.csv, or damaged.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines)
        header = next(reader, [])
        rows = list(reader)
    numbers = [row[0] for row in rows if len(row) == len(HEADER)]
    if tuple(header) != HEADER or numbers != [str(number) for number in range(len(rows))]:
        raise ValueError(f"{path} is damaged: expected the columns {','.join(HEADER)} and ids counted from 0")
    return Manifest(
        paths=tuple(Path(row[1]) for row in rows),
        labels=np.array([int(row[2]) for row in rows], dtype=np.int64),
        splits=np.array([row[3] for row in rows], dtype="<U5"),
        classes=tuple(classes),
        contents="",
        fingerprint="",
    )


def _report_copies(
    listing: ImageListing, rows: Sequence[int], digests: Sequence[str], splits: NDArray[np.str_]
) -> None:
    """Warn of a file that occurs under two labels, or in two splits: either makes scores less reliable."""
    first: dict[str, int] = {}
    relabelled: list[str] = []
    num_shared = 0
    for position, (row, digest) in enumerate(zip(rows, digests, strict=True)):
        earlier = first.setdefault(digest, position)
        num_shared += bool(splits[earlier] != splits[position])
        if listing.labels[rows[earlier]] != listing.labels[row]:
            relabelled.append(f"{listing.paths[rows[earlier]]} and {listing.paths[row]}")
    if relabelled:
        log.warning("images that occur under two labels: %d, first %s", len(relabelled), relabelled[0])
    if num_shared:
        log.warning("images that occur in two of the splits train, val and test: %d", num_shared)
