"""ImageListing: the image files of a source, their classes, and the splits they came with."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

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

SAMPLE = 100
COLUMNS = "path,label[,split]"


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


def take_sample(paths: Sequence[Path]) -> Sequence[Path]:
    """About a hundred of the paths, evenly spread, whose sizes stand for all."""
    return paths[:: max(1, len(paths) // SAMPLE)]


def sort_class_names(names: set[str]) -> tuple[str, ...]:
    """Sort whole numbers by value ("2" before "10"), everything else by code point."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def list_csv(csv_file: Path) -> ImageListing:
    """List the images that a CSV file names; relative paths count from the file's folder.

    Raises:
        ValueError: unreadable, a column missing, an empty cell, an unknown split, no image there, one class.
    """
    csv_file = csv_file.absolute()
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as lines:
            rows = _read_rows(csv_file, csv.DictReader(lines, skipinitialspace=True))
    except OSError as error:
        raise ValueError(f"cannot read {csv_file}: {error.strerror}; check its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{csv_file} is not a UTF-8 CSV file with the columns {COLUMNS} ({error})"
        ) from error
    if not rows:
        raise ValueError(f"{csv_file} lists no images; expected a line {COLUMNS} and one line an image")
    if not any(path.exists() for path, _, _ in rows):
        raise ValueError(
            f"{csv_file}: none of its images exists, the first is {rows[0][0]};"
            f" relative paths count from {csv_file.parent}"
        )
    return make_listing(str(csv_file), rows)


def _read_rows(csv_file: Path, reader: csv.DictReader[str]) -> list[tuple[Path, str, str | None]]:
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    missing = [name for name in ("path", "label") if name not in reader.fieldnames]
    if missing:
        found = ", ".join(reader.fieldnames) or "nothing"
        raise ValueError(
            f"{csv_file} lacks the column {' and '.join(missing)}; expected {COLUMNS}, found {found}"
        )
    return [_read_row(csv_file, reader.line_num, row) for row in reader]


def _read_row(csv_file: Path, line: int, row: dict[str, str | None]) -> tuple[Path, str, str | None]:
    path, label, split = ((row.get(name) or "").strip() for name in ("path", "label", "split"))
    if not path or not label:
        raise ValueError(f"{csv_file}, line {line}: path and label must not be empty")
    if split and split.lower() not in SPLIT_ALIASES:
        raise ValueError(f"{csv_file}, line {line}: split must be train, val, test or empty, got {split!r}")
    return csv_file.parent / path, label, SPLIT_ALIASES[split.lower()] if split else None


def list_folder(folder: Path) -> ImageListing:
    """List the images below `folder`; a class is the name of the first folder below it (or below its split).

    Raises:
        ValueError: the folder cannot be read, holds no images, or holds a single class.
    """
    root = folder.absolute()
    try:
        rows = _list_rows(root)
    except OSError as error:
        raise ValueError(
            f"cannot read {error.filename or root}: {error.strerror}; check its permissions"
        ) from error
    if not rows:
        raise ValueError(
            f"{root} holds no images in class folders; expected {root}/CLASS/image.jpg (jpg, png, webp, …)"
        )
    return make_listing(str(root), rows)


def _list_rows(root: Path) -> list[tuple[Path, str, str | None]]:
    folders = _class_folders(root)
    splits = {name: SPLIT_ALIASES.get(name.lower()) for name in folders}
    # A class may be called "train" (vehicles): these are splits only when every folder is one.
    if folders and all(splits.values()) and "train" in splits.values():
        return [
            (path, name, split)
            for folder, split in splits.items()
            for name in _class_folders(root / folder)
            for path in _walk_images(root / folder / name)
        ]
    return [(path, name, None) for name in folders for path in _walk_images(root / name)]


def _class_folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    stray = sum(1 for entry in visible if is_image(entry.name) and entry.is_file())
    if stray:
        log.warning("%s: %d images lie outside a class folder and are left out", root, stray)
    return sorted(entry.name for entry in visible if entry.is_dir())


def _walk_images(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, onerror=_raise, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a symbolic link back up the tree
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if is_image(name))


def _raise(error: OSError) -> None:
    raise error
