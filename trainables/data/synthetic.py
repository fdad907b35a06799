"""Synthetic training images: the folder that --synthetic names, and the study's table of what it held."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.files import did_you_mean, plural, printable, write_aside
from contract.image_names import is_hidden, is_image
from contract.synthetic_images import FILE_NAME, SyntheticImages
from trainables.data.datasets import list_names
from trainables.data.manifest import Manifest

HEADER = ("path", "label", "digest")
"""Columns of synthetic.csv."""

MOST_CLASSES = 12
"""Classes that a line names; the others are counted."""

UNFINISHED = ".training"
"""Folder in which `synthesize` keeps its training; the list comes last."""

ANEW = "make them anew with python -m trainables synthesize, this --data and --seed (or --study)"


@dataclass(frozen=True, eq=False)
class SyntheticListing:
    """The images of a folder by class, in the order in which a growing share takes them."""

    folder: Path
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    """Class of every image [N], as a position in the data's classes."""

    made: SyntheticImages | None
    """What synthetic.json says of them; None for the images of another generator."""

    def class_counts(self, num_classes: int) -> NDArray[np.int64]:
        """Images of each class, [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


def _places(number: int) -> NDArray[np.float64]:
    """Where a class's images stand in the common order of all, in (0, 1): evenly spread."""
    return (np.arange(number) + 0.5) / number


def count_added(share: float, number: int) -> int:
    """Images of a class with `number` of them that a share adds: the first ones, a half rounded downwards."""
    return int((_places(number) < share).sum())


def count_all_added(share: float, labels: NDArray[np.int64]) -> int:
    """Images that a share adds, of all classes together, given the class of every synthetic image [N]."""
    return sum(count_added(share, int(number)) for number in np.bincount(labels))


def list_synthetic(folder: Path, classes: Sequence[str]) -> SyntheticListing:
    """List a folder of class folders that `synthesize`, or another generator, has filled.

    Raises:
        ValueError: in one line, what is wrong with the folder, and what to do.
    """
    if not folder.is_dir():
        raise ValueError(
            f"--synthetic {printable(folder)} is no folder: pass the --out of python -m trainables "
            "synthesize, or a folder of class folders"
        )
    if (folder / UNFINISHED).is_dir() and not (folder / FILE_NAME).exists():
        raise ValueError(
            f"--synthetic {printable(folder)} is not finished: run its command, python -m trainables "
            "synthesize, to the end"
        )
    made = SyntheticImages.load(folder) if (folder / FILE_NAME).exists() else None
    by_class = made.list_images(folder) if made else _list_folders(folder)
    if unknown := [name for name in by_class if name not in classes]:
        hint = did_you_mean(unknown[0], classes) or f"the data have {list_names(classes)}"
        raise ValueError(
            f"--synthetic {printable(folder)} has the class {unknown[0]!r}, which the data have not: {hint}"
        )
    if not any(by_class.values()):
        raise ValueError(f"--synthetic {printable(folder)} has no image in a class folder: {ANEW}")
    rows = [
        (place, classes.index(name), path)
        for name, paths in by_class.items()
        for place, path in zip(_places(len(paths)).tolist(), paths, strict=True)
    ]
    rows.sort()
    return SyntheticListing(
        folder=folder,
        paths=tuple(path for *_, path in rows),
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        made=made,
    )


def _list_folders(folder: Path) -> dict[str, list[Path]]:
    """Images in class folders by class, in the order of their names."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
        return {
            unicodedata.normalize("NFC", one.name): sorted(
                path for path in one.iterdir() if is_image(path.name)
            )
            for one in folders
        }
    except OSError as error:
        raise ValueError(
            f"--synthetic: cannot read {printable(error.filename)}: {error.strerror}; check its permissions"
        ) from error


def check_origin(listing: SyntheticListing, manifest: Manifest, *, seed: int) -> None:
    """Check that the generator has seen the study's train split and nothing else of its data.

    The images of another generator, without synthetic.json, are not known to have; nothing is checked.

    Args:
        seed: the study's --seed, from which its split follows.

    Raises:
        ValueError: they were made from other data or of another split.
    """
    made = listing.made
    if made is None or made.fingerprint == manifest.fingerprint:
        return
    held_out = [manifest.digests[row] for row in np.flatnonzero(manifest.splits != "train")]
    seen = len(made.trained_on(held_out))
    leak = f"; {plural(seen, 'image')} that it learned from would be validated or tested" if seen else ""
    other = f"--seed {made.split_seed}, not {seed}" if made.split_seed != seed else "other images or splits"
    raise ValueError(
        f"--synthetic {printable(listing.folder)} was made from {printable(made.source)} with {other} "
        f"(fingerprint {made.fingerprint[:8]}, here {manifest.fingerprint[:8]}){leak}: {ANEW}"
    )


@dataclass(frozen=True, eq=False)
class SyntheticTable:
    """The synthetic images of a study, in the order in which a growing share takes them; synthetic.csv."""

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    digests: tuple[str, ...]
    """sha256 of every file's content."""

    @property
    def fingerprint(self) -> str:
        """Hash of the images' contents and classes in their order."""
        lines = (f"{digest} {label}" for digest, label in zip(self.digests, self.labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def write_csv(self, path: Path) -> None:
        """Write synthetic.csv: path, label and digest of every image."""
        with (
            write_aside(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as lines,
        ):
            writer = csv.writer(lines)
            writer.writerow(HEADER)
            writer.writerows(zip(self.paths, self.labels.tolist(), self.digests, strict=True))


def read_synthetic(path: Path) -> SyntheticTable:
    """Read synthetic.csv back.

    Raises:
        ValueError: it is not there, since the study has no synthetic images, or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            reader = csv.reader(lines)
            header, rows = tuple(next(reader, [])), list(reader)
    except FileNotFoundError:
        raise ValueError(
            f"{printable(path)} is missing: synthetic_share above 0 needs a study with --synthetic"
        ) from None
    if header != HEADER or any(len(row) != len(HEADER) for row in rows):
        raise ValueError(f"{printable(path)} is damaged: expected the columns {','.join(HEADER)}")
    return SyntheticTable(
        paths=tuple(Path(row[0]) for row in rows),
        labels=np.array([int(row[1]) for row in rows], dtype=np.int64),
        digests=tuple(row[2] for row in rows),
    )


def check_not_held_out(table: SyntheticTable, manifest: Manifest) -> None:
    """Check that no synthetic image is an image of the data that is validated or tested.

    Raises:
        ValueError: some are.
    """
    added = dict(zip(table.digests, table.paths, strict=True))
    held_out = zip(manifest.digests, manifest.splits, strict=True)
    found = [added[digest] for digest, split in held_out if split != "train" and digest in added]
    if found:
        raise ValueError(
            f"--synthetic holds {plural(len(found), 'image')} of the data's own validation or test split "
            f"({printable(found[0])}{', …' if len(found) > 1 else ''}), on which nothing may train"
        )


def describe_synthetic(listing: SyntheticListing, classes: Sequence[str]) -> list[str]:
    """Say in a line how many images train of which classes, and in another what is not known of them."""
    counts = _count_by_name(listing, classes)
    shown = ", ".join(f"{printable(name)} {number:,}" for name, number in list(counts.items())[:MOST_CLASSES])
    more = f" and {len(counts) - MOST_CLASSES} more classes" if len(counts) > MOST_CLASSES else ""
    by = f" by {listing.made.generator}" if listing.made else ""
    lines = [f"synthetic: {plural(len(listing.paths), 'image')}{by}, for training only: {shown}{more}"]
    if listing.made is None:
        lines.append(
            f"synthetic: {printable(listing.folder)} has no {FILE_NAME}, so nothing says what its generator "
            "has seen: if validation or test images were among it, scores will be too high"
        )
    return lines


def synthetic_facts(
    listing: SyntheticListing, table: SyntheticTable, classes: Sequence[str]
) -> dict[str, Any]:
    """Facts of the images for study.json: where they lie, who made them, and how many of each class."""
    made = listing.made
    return {
        "source": str(listing.folder),
        "fingerprint": table.fingerprint,
        "generator": made.generator if made else None,
        "quality": dict(made.quality) if made else {},
        "images": _count_by_name(listing, classes),
    }


def _count_by_name(listing: SyntheticListing, classes: Sequence[str]) -> dict[str, int]:
    counts = listing.class_counts(len(classes)).tolist()
    return {name: number for name, number in zip(classes, counts, strict=True) if number}
