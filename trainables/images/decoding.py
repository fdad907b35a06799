"""Decodes image files, and remembers what was found, so that unchanged files are not read again."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contract.decoding import FULL_RANGE, DeepRange, Fit, Pixels, Remark, UnreadableImage, decode_square
from contract.files import find_os_error
from trainables.data.storage_faults import StorageFault, wait_out_faults

log = logging.getLogger(__name__)

VERSION = 2
"""Raise it when decoding changes what it accepts: the index then starts anew."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INT, mtime_ns INT, digest TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (digest TEXT PRIMARY KEY, ok INT, reason TEXT, width INT, height INT,
  remarks TEXT) WITHOUT ROWID;
CREATE TEMP TABLE wanted (number INTEGER PRIMARY KEY, path BLOB, digest TEXT, size INT, mtime_ns INT);
"""
LOOK_UP = """
SELECT number, ok, reason, width, height, contents.digest, remarks
FROM wanted JOIN files USING (path, size, mtime_ns) JOIN contents ON contents.digest = files.digest
"""

NUM_PROBES = 8
"""Unknown files that are hashed first; the others are hashed too only if one of these turns out known."""

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns: a file with the same stamp is taken to be unchanged."""


@dataclass(frozen=True)
class ImageFact:
    """What decoding found out about an image file."""

    ok: bool
    reason: str
    """Why it cannot be read; empty when it can."""

    width: int
    height: int
    """In pixels, as the image is meant to be seen (orientation applied); 0 when it cannot be read."""

    digest: str
    """Hash of the file's content; empty when there is none."""

    remarks: tuple[Remark, ...] = ()
    """What is odd about it."""


def digest_of(content: bytes) -> str:
    """sha256 in hex: identifies a file's content in every key."""
    return hashlib.sha256(content).hexdigest()


def unreadable(error: OSError) -> ImageFact:
    """The fact about a file that the system could not read."""
    return ImageFact(ok=False, reason=error.strerror or str(error), width=0, height=0, digest="")


def decode_files(
    paths: Sequence[Path], size: int, fit: Fit, deep: DeepRange = FULL_RANGE
) -> tuple[Pixels, list[ImageFact]]:
    """Decode files to [N, size, size, 3]; the pixels of unreadable ones are zero.

    Raises:
        StorageFault: a fault of the storage, which says nothing about the image, did not pass in time.
    """
    pixels = np.zeros((len(paths), size, size, 3), dtype=np.uint8)
    return pixels, [_decode_file(path, pixels[row], fit, deep) for row, path in enumerate(paths)]


def read_file(path: Path) -> bytes:
    """Read a regular file: a pipe would never end.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (twice as fast as Path.stat)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def _decode_file(path: Path, out: Pixels, fit: Fit, deep: DeepRange) -> ImageFact:
    try:
        content = wait_out_faults(partial(read_file, path))
    except StorageFault:
        raise
    except OSError as error:
        return unreadable(error)
    digest = digest_of(content)
    try:
        square = decode_square(content, size=len(out), fit=fit, deep=deep)
    except UnreadableImage as error:
        if fault := find_os_error(error):  # in a file of Pillow's own, such as a decoder that it loads
            raise fault from error
        return ImageFact(ok=False, reason=str(error), width=0, height=0, digest=digest)
    out[:] = square.pixels
    return ImageFact(
        ok=True,
        reason="",
        width=square.width,
        height=square.height,
        digest=digest,
        remarks=square.remarks,
    )


class DecodedAtUse:
    """Images that are decoded at every use, for want of room; those that cannot be read are zeros."""

    def __init__(
        self, paths: Sequence[Path], size: int, fit: Fit, deep: DeepRange, facts: Sequence[ImageFact]
    ) -> None:
        """`facts` are what the first look at each file found."""
        self._paths, self._size, self._fit, self._deep, self._facts = paths, size, fit, deep, facts
        self.shape = (len(paths), size, size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Any, /) -> Pixels:
        """The pixels of these rows.

        Raises:
            OSError: a file has gone, or has another content than at the first look.
        """
        chosen = np.arange(len(self))[rows]
        files = [self._paths[row] for row in np.atleast_1d(chosen)]
        pixels, found = decode_files(files, self._size, self._fit, self._deep)
        for row, fact in zip(np.atleast_1d(chosen), found, strict=True):
            if fact.digest != self._facts[row].digest:
                what = "has changed" if fact.ok else f"cannot be read any more ({fact.reason})"
                raise OSError(f"{self._paths[row]} {what} since the study's images were looked at")
        return pixels[0] if np.ndim(chosen) == 0 else pixels


def stamp_files(paths: Sequence[Path]) -> list[Stamp | ImageFact]:
    """Read every file's stamp; where that fails, the fact that says why."""

    def stamp(path: Path) -> Stamp | ImageFact:
        try:
            status = wait_out_faults(lambda: os.stat(path))  # noqa: PTH116 (twice as fast as Path.stat)
        except StorageFault:
            raise
        except OSError as error:
            return unreadable(error)
        return status.st_size, status.st_mtime_ns

    return [stamp(path) for path in paths]


class ImageIndex:
    """Facts about files decoded before, in a small SQLite file; losing it costs time, never results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look_up(self, paths: Sequence[Path], stamps: Sequence[Stamp | ImageFact]) -> list[ImageFact | None]:
        """Find the fact about every file; None = it has to be decoded."""
        facts = [stamp if isinstance(stamp, ImageFact) else None for stamp in stamps]
        for number, ok, *values in self._run(lambda index: _select(index, paths, stamps)):
            reason, width, height, digest, remarks = values
            facts[number] = ImageFact(bool(ok), reason, width, height, digest, _split(remarks))
        unknown = [number for number, fact in enumerate(facts) if fact is None]
        # Files that were only moved or touched: hash them, unless the first few are all new.
        if unknown and self._recognise(facts, paths, unknown[:NUM_PROBES]):
            self._recognise(facts, paths, unknown[NUM_PROBES:])
            self.record(paths, stamps, facts)
        return facts

    def record(
        self,
        paths: Sequence[Path],
        stamps: Sequence[Stamp | ImageFact],
        facts: Sequence[ImageFact | None],
    ) -> None:
        """Remember the facts of files that were there."""
        known = [
            (os.fsencode(path), stamp, fact)
            for path, stamp, fact in zip(paths, stamps, facts, strict=True)
            if fact and fact.digest and not isinstance(stamp, ImageFact)
        ]
        files = [(path, *stamp, fact.digest) for path, stamp, fact in known]
        contents = [
            (fact.digest, fact.ok, fact.reason, fact.width, fact.height, ",".join(fact.remarks))
            for _, _, fact in known
        ]

        def write(index: sqlite3.Connection) -> list[tuple]:
            index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", files)
            index.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?)", contents)
            return []

        self._run(write)

    def _recognise(
        self, facts: list[ImageFact | None], paths: Sequence[Path], numbers: Sequence[int]
    ) -> bool:
        """Fill in the facts of contents that were seen under another name; true if there were any."""
        digests: dict[int, str] = {}
        for number in numbers:
            try:
                digests[number] = digest_of(wait_out_faults(partial(read_file, paths[number])))
            except StorageFault:
                raise
            except OSError as error:
                facts[number] = unreadable(error)
        rows = self._run(lambda index: _select_contents(index, digests))
        for number, ok, reason, width, height, remarks in rows:
            facts[number] = ImageFact(bool(ok), reason, width, height, digests[number], _split(remarks))
        return bool(rows)

    def _run(self, work: Callable[[sqlite3.Connection], list[tuple]]) -> list[tuple]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._attempt(work)
        except sqlite3.OperationalError as error:  # a full or read-only disk, a lock that does not work
            log.warning("%s cannot be used (%s): images are read again", self.path, error)
            return []
        except sqlite3.DatabaseError:
            log.warning("%s is damaged and is written anew", self.path)
            self.path.unlink(missing_ok=True)
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], list[tuple]]) -> list[tuple]:
        with closing(sqlite3.connect(self.path, timeout=60)) as index, index:
            if index.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                index.executescript("DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS contents")
                index.execute(f"PRAGMA user_version = {VERSION}")
            index.executescript(SCHEMA)
            return work(index)


def _split(remarks: str) -> tuple[Remark, ...]:
    return tuple(Remark(name) for name in remarks.split(",") if name)


def _select(
    index: sqlite3.Connection, paths: Sequence[Path], stamps: Sequence[Stamp | ImageFact]
) -> list[tuple]:
    wanted = (
        (number, os.fsencode(path), *stamp)
        for number, (path, stamp) in enumerate(zip(paths, stamps, strict=True))
        if not isinstance(stamp, ImageFact)
    )
    index.executemany("INSERT INTO wanted (number, path, size, mtime_ns) VALUES (?, ?, ?, ?)", wanted)
    return index.execute(LOOK_UP).fetchall()


def _select_contents(index: sqlite3.Connection, digests: Mapping[int, str]) -> list[tuple]:
    index.executemany("INSERT INTO wanted (number, digest) VALUES (?, ?)", digests.items())
    query = "SELECT number, ok, reason, width, height, remarks FROM wanted JOIN contents USING (digest)"
    return index.execute(query).fetchall()
