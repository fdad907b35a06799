"""What lies below a folder or a bucket: its image files, folders and whatever else is there, by name only."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from contract.files import printable
from contract.image_formats import KNOWN_SUFFIXES
from contract.image_names import is_hidden, is_image
from contract.study_layout import is_own_folder


@dataclass(eq=False)
class Folder:
    """A folder of a source, with what lies in it; hidden and side folders are left out."""

    name: str
    images: list[str] = field(default_factory=list)
    """File names, sorted."""

    others: Counter[str] = field(default_factory=Counter)
    """Number of other files by suffix, in lower case; "" for those without."""

    odd: list[tuple[str, str]] = field(default_factory=list)
    """(name, what it is): entries that are neither files nor folders, or that cannot be read."""

    folders: list[Folder] = field(default_factory=list)
    """Sorted by name."""

    own: list[str] = field(default_factory=list)
    """Folders in it that this program wrote."""

    @cached_property
    def num_images(self) -> int:
        """Number of images in it and below."""
        return len(self.images) + sum(folder.num_images for folder in self.folders)

    @property
    def full(self) -> list[Folder]:
        """Folders in it that hold images, directly or below."""
        return [folder for folder in self.folders if folder.num_images]

    def find(self, name: str) -> Folder | None:
        return next((folder for folder in self.folders if folder.name == name), None)

    def walk(self, prefix: str = "") -> Iterator[str]:
        """Yield the path of every image from here, files before folders."""
        yield from (prefix + name for name in self.images)
        for folder in self.folders:
            yield from folder.walk(f"{prefix}{folder.name}/")

    def count_others(self) -> Counter[str]:
        """Number of other files by suffix, in it and below."""
        counts = Counter(self.others)
        for folder in self.folders:
            counts += folder.count_others()
        return counts

    def walk_odd(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield (path, what it is) of every odd entry in it and below."""
        yield from ((prefix + name, what) for name, what in self.odd)
        for folder in self.folders:
            yield from folder.walk_odd(f"{prefix}{folder.name}/")


def scan_folder(root: Path, *, own: Sequence[Path] = ()) -> Folder:
    """Look at everything below a folder, links followed, without opening a file.

    Args:
        own: folders that are left out where they lie below the root.

    Raises:
        OSError: the root cannot be read; what cannot be read below it is kept as odd.
    """
    mine = {path.absolute() for path in own} - {root}
    return _scan(root, root.name, mine, above=frozenset())


def _scan(path: Path, name: str, own: set[Path], above: frozenset[tuple[int, int]]) -> Folder:
    status = path.stat()
    here = above | {(status.st_dev, status.st_ino)}
    folder = Folder(name)
    with os.scandir(path) as entries:
        found = sorted(
            (entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name
        )
    for entry in found:
        kind = _kind(entry)
        if kind == "file":
            _add_file(folder, entry.name)
        elif kind == "folder":
            _scan_below(folder, path / entry.name, own, here)
        else:
            folder.odd.append((entry.name, kind))
    return folder


def _scan_below(folder: Folder, path: Path, own: set[Path], above: frozenset[tuple[int, int]]) -> None:
    try:
        status = path.stat()
        if (status.st_dev, status.st_ino) in above:  # a symbolic link back up the tree
            return
        if path in own or is_own_folder(path):
            folder.own.append(path.name)
            return
        folder.folders.append(_scan(path, path.name, own, above))
    except OSError as error:
        folder.odd.append((path.name, f"a folder that cannot be read ({error.strerror})"))


def _kind(entry: os.DirEntry[str]) -> str:
    """Tell what an entry is: "file", "folder", or what to call it in a message."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 (hot)
            return "a link to nothing"
        mode = entry.stat().st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _add_file(folder: Folder, name: str) -> None:
    if is_image(name):
        folder.images.append(name)
    else:
        folder.others[PurePosixPath(name).suffix.lower()] += 1


def build_tree(name: str, paths: Iterable[PurePosixPath]) -> Folder:
    """Build the tree of the objects of a bucket from their paths below its folder."""
    root = Folder(name)
    by_path: dict[tuple[str, ...], Folder] = {(): root}

    def folder_of(parents: tuple[str, ...]) -> Folder:
        if parents not in by_path:
            by_path[parents] = Folder(parents[-1])
            folder_of(parents[:-1]).folders.append(by_path[parents])
        return by_path[parents]

    for path in sorted(paths):
        if not any(part == ".." or is_hidden(part) for part in path.parts):
            _add_file(folder_of(path.parts[:-1]), path.name)
    for folder in by_path.values():
        folder.folders.sort(key=lambda below: below.name)
        folder.images.sort()
    return root


def describe_counts(counts: Counter[str]) -> str:
    """Say "50 .heic (what it needs), 3 .txt, 1 without a suffix", the most frequent first."""
    parts = [
        f"{number} {printable(suffix)}{_what_it_needs(suffix)}" if suffix else f"{number} without a suffix"
        for suffix, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return ", ".join(parts)


def _what_it_needs(suffix: str) -> str:
    """Say what the format of a suffix needs to be read, if it is an image format that is known."""
    return f" ({KNOWN_SUFFIXES[suffix]})" if suffix in KNOWN_SUFFIXES else ""
