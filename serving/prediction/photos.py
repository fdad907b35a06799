"""Lists the photos that a command names, one after the other, and reads their bytes.

A folder's names are sorted and held while it is walked; nothing else of the list is, so that a million photos
need no more memory than their largest folder has names.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from contract.buckets import is_url
from contract.files import DISK_FULL, TRANSIENT, plural, printable
from contract.image_names import is_hidden, is_image
from contract.study_layout import is_own_folder
from serving.prediction import bucket_photos, table_photos

MOST_BYTES = 4 * 2**30
"""A larger file is no image that could be decoded, and would fill the memory."""

TRIES, PAUSE_SECONDS = 3, 1.0
"""How often a file is read whose storage has a fault that may pass."""

_MAGIC = re.compile(r"[*?[]")
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")
"""How a byte of a name that is no UTF-8 stands in a table that this program wrote."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to be predicted."""

    name: str
    """Path or URL as it was given: the column `path` of the results."""

    place: str
    """Its file or URL."""

    truth: str = ""
    """The label that the table gives it; empty without one."""

    problem: str = ""
    """Why there is nothing to read here, where listing found it out."""

    is_listed: bool = False
    """True if a table or a list names it, which may write the path otherwise than the file system does."""


@dataclass(eq=False)
class Listing:
    """The photos that files, folders, patterns, URLs, "-" for a list on standard input, and a table name."""

    sources: Sequence[str]
    table: Path | None = None
    column: str | None = None
    with_labels: bool = False
    """The table's column of labels is read, too."""

    own: frozenset[str] = frozenset()
    """Absolute paths of files that this command writes: they are not counted as left out."""

    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Files of folders and patterns that are no images, by suffix."""

    own_folders: int = 0

    def check(self) -> None:
        """Look whether every pattern matches something, and whether anything named exists.

        Raises:
            ValueError: there is nothing; the line names what.
        """
        local = [source for source in self.sources if source != "-" and not is_url(source)]
        for source in local:
            if self._is_pattern(source):
                probe = Listing([source])
                if next(iter(probe), None) is None:
                    raise ValueError(f"{source} matches no image{probe.describe_others()}")
        is_all = len(local) == len(self.sources) and self.table is None
        if is_all and not any(_exists(source) or self._is_pattern(source) for source in local):
            raise ValueError(f"{printable(local[0])}: there is no such file or folder")

    def __iter__(self) -> Iterator[Photo]:
        """Yield the photos in the order of their sources; folders are walked in the order of names."""
        self.hidden, self.own_folders = 0, 0
        self.others.clear()
        for source in self.sources:
            yield from self._open(source)
        if self.table is not None:
            base = str(self.table.absolute().parent)
            for name, label in table_photos.read(self.table, self.column, with_labels=self.with_labels):
                place = name if is_url(name) else os.path.join(base, name)  # noqa: PTH118 (keeps odd names)
                yield Photo(name, place, truth=label, is_listed=True)

    def describe_left_out(self) -> list[str]:
        """Say in lines what was left out."""
        lines = []
        if self.others:
            lines.append(
                f"left out {plural(self.others.total(), 'file')} without an image's suffix: {self._count()}"
            )
        if self.hidden:
            lines.append(f"left out {plural(self.hidden, 'hidden name')}")
        if self.own_folders:
            lines.append(f"left out {plural(self.own_folders, 'folder')} that this program wrote")
        return lines

    @staticmethod
    def _is_pattern(source: str) -> bool:
        return not _exists(source) and _MAGIC.search(source) is not None

    def _open(self, source: str) -> Iterator[Photo]:
        if source == "-":
            yield from (Photo(name, name, is_listed=True) for name in _read_list())
        elif is_url(source):
            for url in bucket_photos.find(source):
                name = url.rpartition("/")[2]
                if url == source or is_image(name):
                    yield Photo(url, url)
                elif is_hidden(name):
                    self.hidden += 1
                else:
                    self._leave_out(url)
        elif os.path.isdir(source):  # noqa: PTH112 (names with odd bytes stay as they are)
            yield from self._walk(source)
        elif self._is_pattern(source):
            yield from self._match(source)
        else:
            yield Photo(source, source)

    def _walk(self, folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Photo]:
        """Yield the images of a folder, then those of its folders; links are followed, but not in a ring."""
        try:
            status = os.stat(folder)  # noqa: PTH116
            here = (status.st_dev, status.st_ino)
            if here in above:
                return
            if above and is_own_folder(Path(folder)):
                self.own_folders += 1
                return
            files, folders = self._scan(folder)
        except OSError as error:
            yield Photo(folder, folder, problem=f"a folder that cannot be read: {error.strerror}")
            return
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            yield Photo(path, path)
        for name in folders:
            yield from self._walk(os.path.join(folder, name), above | {here})  # noqa: PTH118

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the images and of the folders in a folder, sorted; all else is counted."""
        files, folders = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    self.hidden += 1
                elif entry.is_dir():
                    folders.append(entry.name)
                elif is_image(entry.name):
                    files.append(entry.name)
                else:
                    self._leave_out(entry.path)
        return sorted(files), sorted(folders)

    def _match(self, pattern: str) -> Iterator[Photo]:
        """Yield what a pattern matches: images, and those in folders that it matches, unless it has `**`."""
        parts = [part for part in pattern.split("/") if part]
        for path in _expand("/" if pattern.startswith("/") else "", parts):
            if os.path.isdir(path):  # noqa: PTH112
                if "**" not in parts:
                    yield from self._walk(path)
            elif is_image(os.path.basename(path)):  # noqa: PTH119
                yield Photo(path, path)
            else:
                self._leave_out(path)

    def _leave_out(self, path: str) -> None:
        if os.path.abspath(path) not in self.own:  # noqa: PTH100
            self.others[os.path.splitext(path)[1].lower()] += 1  # noqa: PTH122

    def _count(self) -> str:
        parts = [
            f"{number} {printable(suffix) or 'without a suffix'}"
            for suffix, number in self.others.most_common(5)
        ]
        return ", ".join([*parts, *(["…"] if len(self.others) > 5 else [])])

    def describe_others(self) -> str:
        """Say what else than images is there, to go on a line; "" if there is nothing."""
        return f", but {plural(self.others.total(), 'other file')}: {self._count()}" if self.others else ""


def read_photo(photo: Photo) -> bytes:
    """Read a photo's file or object.

    Raises:
        OSError: it is missing, no regular file or cannot be read; the message is a line.
    """
    if photo.problem:
        raise OSError(photo.problem)
    if is_url(photo.place):
        return bucket_photos.read(photo.place)
    for left in reversed(range(TRIES)):
        try:
            return _read_file(photo)
        except OSError as error:
            if not left or error.errno not in TRANSIENT - DISK_FULL:
                raise OSError(error.strerror or str(error)) from error
        except ValueError:  # a NUL in a name
            raise OSError("no name that a file can have") from None
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _read_file(photo: Photo) -> bytes:
    try:
        return _read_regular(photo.place)
    except FileNotFoundError:
        for other in _other_writings(photo) if photo.is_listed else ():
            with suppress(OSError, ValueError):
                return _read_regular(other)
        raise


def _read_regular(path: str) -> bytes:
    status = os.stat(path)  # noqa: PTH116 (twice as fast as Path.stat)
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "a folder, not a file")
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES >> 30} GB, which no image is that is read")
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (names with odd bytes stay as they are)
        return file.readall()


def _other_writings(photo: Photo) -> Iterator[str]:
    """How else a table may have written a path: blanks around it, other slashes, escaped bytes."""
    base, name = photo.place[: len(photo.place) - len(photo.name)], photo.name
    yield base + name.strip()
    yield base + name.replace("\\", "/")
    yield base + _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)


def _exists(path: str) -> bool:
    with suppress(ValueError):
        return os.path.lexists(path)
    return False


def _expand(base: str, parts: Sequence[str]) -> Iterator[str]:
    """Yield the paths that the parts of a pattern match below a folder, in the order of names.

    A part that is the name of something there stands for that, whatever brackets it holds.
    """
    if not parts:
        yield base
        return
    head, rest = parts[0], parts[1:]
    literal = os.path.join(base, head)  # noqa: PTH118
    if head != "**" and (not _MAGIC.search(head) or _exists(literal)):
        if _exists(literal):
            yield from _expand(literal, rest)
        return
    try:
        with os.scandir(base or ".") as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name))
    except OSError:
        return
    if head == "**":
        yield from _expand(base, rest or ["*"])
    for name, is_folder in found:
        path = os.path.join(base, name)  # noqa: PTH118
        if head == "**":
            if is_folder and not os.path.islink(path):  # noqa: PTH114 (a ring of links would not end)
                yield from _expand(path, parts)
        elif fnmatchcase(name, head) and (is_folder or not rest):
            yield from _expand(path, rest)


def _read_list() -> Iterator[str]:
    """Yield the names on standard input: one a line, or ended by NUL as `find -print0` does."""
    descriptor = sys.stdin.fileno()
    separator, rest = b"", b""
    while chunk := os.read(descriptor, 1 << 16):
        separator = separator or (b"\0" if b"\0" in chunk else b"\n" if b"\n" in chunk else b"")
        *whole, rest = (rest + chunk).split(separator) if separator else (rest + chunk,)
        for name in whole:
            if name := name.rstrip(b"\r"):
                yield os.fsdecode(name)
    if rest := rest.rstrip(b"\r"):
        yield os.fsdecode(rest)


Labels = Mapping[str, str]
"""Label of a photo by its absolute path or URL."""


def read_labels(table: Path) -> Labels:
    """Read a table with the columns path and label; relative paths count from its folder.

    Raises:
        ValueError: it cannot be read, or a column is missing.
    """
    base = str(table.absolute().parent)
    rows = table_photos.read(table, None, with_labels=True)
    return {_key(name if is_url(name) else os.path.join(base, name)): label for name, label in rows}  # noqa: PTH118


def find_label(photo: Photo, labels: Labels) -> str:
    """The label of a photo in a table of labels; empty without one."""
    return labels.get(_key(photo.place), "")


def name_folder(photo: Photo) -> str:
    """Name of the folder that a photo lies in."""
    return _key(photo.place).rpartition("/")[0].rpartition("/")[2]


def _key(place: str) -> str:
    return place if is_url(place) else os.path.abspath(place)  # noqa: PTH100
