"""A folder of images: class/image.jpg, or train/class/image.jpg beside val/ and test/."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from trainables.data.datasets._listing import SPLIT_ALIASES, ImageListing, is_image, make_listing

log = logging.getLogger(__name__)


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
