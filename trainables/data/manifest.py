"""Manifest: every image of a study with its number, label, split and group; written as data.csv."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.files import plural, printable, write_aside
from trainables.data.datasets import ImageListing, Note
from trainables.data.groups import join_groups, number_anew, take_pairs
from trainables.data.splits import split_in_use

HEADER = ("id", "path", "label", "split", "group", "digest", "class")
OLD_HEADER = HEADER[:4]
"""Columns of studies that knew no groups."""

MAPPED_HEADER = (*HEADER, "original")
"""Columns of studies with --classes: each image's class before it."""

NAMED = 5
"""Images that a note names; the others are counted."""


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
    groups: NDArray[np.int64]
    """Group of every image [N]: copies and near copies, and what the user says belongs together."""
    digests: tuple[str, ...]
    """sha256 of every file's content."""
    notes: tuple[Note, ...] = ()
    originals: tuple[str, ...] = ()
    """Class of every image before --classes; () where it was not used."""

    def __len__(self) -> int:
        return len(self.paths)

    def indices(self, split: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.splits == split).astype(np.int64)

    @property
    def leaked(self) -> NDArray[np.int64]:
        """Images of val and test whose group has images in train: a model has seen what they show."""
        in_train = np.isin(self.groups, self.groups[self.splits == "train"])
        return np.flatnonzero(in_train & (self.splits != "train")).astype(np.int64)

    def write_csv(self, path: Path) -> None:
        """Write data.csv: id, path, label, split, group, digest and class of every image.

        With --classes also its original class.
        """
        with (
            write_aside(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines,
        ):
            writer = csv.writer(lines)
            writer.writerow(MAPPED_HEADER if self.originals else HEADER)
            names = (self.classes[label] for label in self.labels)
            columns = (self.labels.tolist(), self.splits.tolist(), self.groups.tolist(), self.digests, names)
            rows = zip(self.paths, *columns, *([self.originals] if self.originals else ()), strict=True)
            writer.writerows((number, *row) for number, row in enumerate(rows))


def make_manifest(
    listing: ImageListing,
    digests: Sequence[str],
    *,
    seed: int,
    near_copies: Iterable[tuple[int, int]] = (),
    min_images: int | None = None,
    recorded: Callable[[Sequence[str]], Sequence[str] | None] = lambda _: None,
) -> Manifest:
    """Group the images, split them so that no group is torn, and hash them with and without the split.

    With --classes all images are grouped and split, and then those that are used are taken.

    Args:
        digests: content hash of every listed file, as the image store found it.
        near_copies: pairs of listed images that show the same.
        min_images: train on classes that cannot be validated, and leave out smaller names of --classes; None
            refuses what cannot be validated.
        recorded: returns the splits that the study gave the images of these contents when it began.

    Raises:
        ValueError: the images cannot be split.
    """
    pairs = [pair for pair in near_copies if digests[pair[0]] != digests[pair[1]]]
    keys = [digests, listing.groups] if listing.groups else [digests]
    groups = join_groups(len(digests), keys, pairs)
    used, splits = split_in_use(listing, seed=seed, groups=groups, min_images=min_images)
    originals: tuple[str, ...] = ()
    if listing.renamed:
        rows = np.flatnonzero(used.keep)
        originals = tuple(listing.classes[label] for label in listing.labels[rows])
        listing, digests = used.listing, [digests[row] for row in rows.tolist()]
        groups, pairs = number_anew(groups[rows]), take_pairs(pairs, used.keep)
    if begun := recorded(digests):
        splits = np.array(begun, dtype=splits.dtype)
    names = [listing.classes[label] for label in listing.labels]
    contents = sorted(f"{digest} {name}" for digest, name in zip(digests, names, strict=True))
    ordered = hashlib.sha256("\0".join(listing.classes).encode())
    for digest, label, split in zip(digests, listing.labels, splits, strict=True):
        ordered.update(f"\n{digest} {label} {split}".encode())
    manifest = Manifest(
        paths=listing.paths,
        labels=listing.labels,
        splits=splits,
        classes=listing.classes,
        contents=hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16],
        fingerprint=ordered.hexdigest()[:16],
        groups=groups,
        digests=tuple(digests),
        originals=originals,
    )
    return replace(manifest, notes=(*_describe_near_copies(manifest, pairs), *_describe_copies(manifest)))


def _describe_near_copies(manifest: Manifest, pairs: Sequence[tuple[int, int]]) -> Iterator[Note]:
    if pairs:
        number = len({row for pair in pairs for row in pair})
        shown = "; ".join(" and ".join(_name(manifest.paths[n]) for n in pair) for pair in pairs[:NAMED])
        text = f"{plural(number, 'image')} that nearly equal another, kept in one split: {shown}"
        more = f" and {len(pairs) - NAMED} more pairs" if len(pairs) > NAMED else ""
        yield Note("copy", text + more, number)


def _describe_copies(manifest: Manifest) -> Iterator[Note]:
    """Note images that occur twice, under two labels, or in two splits."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, digest in enumerate(manifest.digests):
        numbers[digest].append(number)
    copies = [found for found in numbers.values() if len(found) > 1]
    relabelled = [found for found in copies if len({int(manifest.labels[n]) for n in found}) > 1]
    if copies:
        number = sum(len(found) - 1 for found in copies)
        yield Note(
            "copy", f"{plural(number, 'image')} with the content of another, kept in one split", number
        )
    if relabelled:
        pairs = [" and ".join(_name(manifest.paths[n]) for n in found[:2]) for found in relabelled[:NAMED]]
        shown = "; ".join(pairs)
        text = f"{plural(len(relabelled), 'image')} under two labels: {shown}"
        yield Note("copy", text, len(relabelled))
    leaked = manifest.leaked
    for split in ("val", "test"):
        found = [int(n) for n in leaked if manifest.splits[n] == split]
        if found:
            shown = _name_some([manifest.paths[n] for n in found])
            text = (
                f"{len(found)} of {(manifest.splits == split).sum()} images in {split} have a copy, or"
                " one of their group, in train, as the data came split: scores on them are too high"
                f" ({shown})"
            )
            yield Note("leak", text, len(found))


def _name_some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(_name(path) for path in paths[:NAMED]) + more


def _name(path: Path) -> str:
    return printable(f"{path.parent.name}/{path.name}")


def read_manifest(path: Path, classes: Sequence[str]) -> Manifest:
    """Read data.csv back; class names and hashes stand in study.json, and the hashes are empty here.

    Raises:
        ValueError: not a data.csv, or damaged.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        reader = csv.reader(lines)
        header = tuple(next(reader, []))
        rows = list(reader)
    numbers = [row[0] for row in rows if len(row) == len(header)]
    if header not in (HEADER, OLD_HEADER, MAPPED_HEADER) or numbers != [
        str(number) for number in range(len(rows))
    ]:
        raise ValueError(f"{path} is damaged: expected the columns {','.join(HEADER)} and ids counted from 0")
    is_old = header == OLD_HEADER
    return Manifest(
        paths=tuple(Path(row[1]) for row in rows),
        labels=np.array([int(row[2]) for row in rows], dtype=np.int64),
        splits=np.array([row[3] for row in rows], dtype="<U5"),
        classes=tuple(classes),
        contents="",
        fingerprint="",
        groups=np.array([int(row[0] if is_old else row[4]) for row in rows], dtype=np.int64),
        digests=() if is_old else tuple(row[5] for row in rows),
        originals=tuple(row[7] for row in rows) if header == MAPPED_HEADER else (),
    )


def read_recorded_splits(path: Path, digests: Sequence[str], classes: Sequence[str]) -> list[str] | None:
    """Splits of a study's data.csv if it lists images of these contents in this order, wherever they lay.

    So a study goes on with the split it began with, though a newer version would cut its images otherwise.

    Args:
        classes: class names as study.json has them.
    """
    try:
        recorded = read_manifest(path, classes)
    except (OSError, ValueError):
        return None
    if len(recorded) != len(digests) or (recorded.digests and recorded.digests != tuple(digests)):
        return None
    return [str(split) for split in recorded.splits]


def describe_change(path: Path, listed: Sequence[Path], digests: Sequence[str]) -> str:
    """Say which images a study's data.csv has, and these files have not, or the other way round; "" if none.

    Images are the same if their contents are, so that moved ones are no change.
    """
    try:
        recorded = read_manifest(path, ())
    except (OSError, ValueError):
        return ""
    if not recorded.digests:
        return ""
    before, now = (
        dict(zip(recorded.paths, recorded.digests, strict=True)),
        dict(zip(listed, digests, strict=True)),
    )
    contents_before, contents_now = set(recorded.digests), set(digests)
    gone = [path for path, digest in before.items() if digest not in contents_now]
    new = [path for path, digest in now.items() if digest not in contents_before]
    parts = [
        ("replaced", [path for path in gone if path in now]),
        ("removed", [path for path in gone if path not in now]),
        ("added", [path for path in new if path not in before]),
    ]
    return ", ".join(f"{len(found)} {what} ({_name_some(found)})" for what, found in parts if found)
