"""Entry of the activation cache on disk: a sparse array, and a checksum for each chunk that is written.

    meta.json    the layout, and the key, for people who look
    data.bin     num_rows * row_bytes, sparse until written
    chunks.bin   8 bytes a chunk: CRC-32 and a mark; zero = not computed. Written after the chunk's data.
    last_used    its modification time is when the entry was last fetched

Nothing is flushed to the disk on purpose: the page cache survives a killed process, and after a power cut
the checksum finds what is missing. A chunk's checksum is verified once in each process that did not write it.
"""

from __future__ import annotations

import json
import os
import time
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.files import fill_aside, save_bytes, save_json
from trainables.images.range_locks import RangeLocks

FORMAT = 1
MAX_CHUNKS = 2**20 - 1
TOUCH_SECONDS = 10.0
"""Shortest time between two notes that an entry is in use."""

_MARK = 0x5A17C0DE


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shape of an entry, and how it is cut into chunks."""

    num_rows: int
    row_shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    """Number of rows that are computed, claimed and checked together."""

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def num_chunks(self) -> int:
        return -(-self.num_rows // self.chunk_rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk, and the row after its last."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.num_rows)


class Entry:
    """An open entry: its in-use lock is held until the object is collected."""

    def __init__(self, path: Path, layout: Layout, *, locks: RangeLocks, lock_base: int) -> None:
        self.path, self.layout = path, layout
        self.given_up = False
        """Set when a chunk could not be written: the rest is computed without the cache."""
        self._locks, self._lock_base = locks, lock_base
        self.verified = np.zeros(layout.num_chunks, dtype=bool)
        """Chunks that this process has written or checked."""
        self._num_verified = 0
        self._touched = 0.0
        self._data = os.open(path / "data.bin", os.O_RDWR | os.O_CLOEXEC)
        self._chunks = os.open(path / "chunks.bin", os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, _close, self._data, self._chunks, locks, lock_base)
        shape = (layout.num_rows, *layout.row_shape)
        self.rows = np.memmap(path / "data.bin", dtype=layout.dtype, mode="r", shape=shape).view(np.ndarray)
        records = np.memmap(path / "chunks.bin", dtype="<u4", mode="r", shape=(layout.num_chunks, 2))
        self._records = records.view(np.ndarray)

    @property
    def whole(self) -> bool:
        """Whether this process has written or checked every chunk."""
        return self._num_verified == self.layout.num_chunks

    def is_ready(self, chunk: int) -> bool:
        """Whether the chunk is on disk, undamaged."""
        if self.verified[chunk]:
            return True
        crc, mark = (int(number) for number in self._records[chunk])
        if mark != _mark(chunk) or crc != self._checksum(chunk):
            return False
        self._accept(chunk)
        return True

    def missing(self) -> list[int]:
        """Chunks that no process has finished yet."""
        return [int(chunk) for chunk in np.flatnonzero(self._records[:, 1] == 0)]

    def claim(self, chunk: int) -> bool:
        """Take the chunk for computing; False if another process or thread has it."""
        return self._locks.try_exclusive(self._lock_base + 1 + chunk)

    def release(self, chunk: int) -> None:
        self._locks.release_exclusive(self._lock_base + 1 + chunk)

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Store a claimed chunk: first its data, then its record.

        Raises:
            OSError: the disk is full, or gone.
        """
        start, stop = self.layout.bounds(chunk)
        if values.shape != (stop - start, *self.layout.row_shape) or values.dtype != self.layout.dtype:
            wanted = f"{self.layout.dtype} {(stop - start, *self.layout.row_shape)}"
            raise ValueError(f"rows {start}..{stop} must be {wanted}, got {values.dtype} {values.shape}")
        content = _as_bytes(values)
        _write_all(self._data, content, start * self.layout.row_bytes)
        record = np.array([zlib.crc32(content), _mark(chunk)], dtype="<u4").tobytes()
        _write_all(self._chunks, memoryview(record), chunk * len(record))
        self._accept(chunk)

    def touch(self) -> bool:
        """Note that the entry is in use, at most every `TOUCH_SECONDS`; False if it was deleted meanwhile."""
        now = time.monotonic()
        if self._touched and now - self._touched < TOUCH_SECONDS:
            return True
        self._touched = now
        try:
            (self.path / "last_used").touch()
        except FileNotFoundError:
            return False
        return True

    def _accept(self, chunk: int) -> None:
        with self._locks.mutex:
            self._num_verified += not self.verified[chunk]
            self.verified[chunk] = True

    def _checksum(self, chunk: int) -> int:
        if os.fstat(self._data).st_size < self.layout.num_bytes:  # cut short: reading the map would be fatal
            os.ftruncate(self._data, self.layout.num_bytes)
        start, stop = self.layout.bounds(chunk)
        return zlib.crc32(_as_bytes(self.rows[start:stop]))


def create_entry(path: Path, layout: Layout, *, key: Mapping[str, Any], scratch: Path) -> None:
    """Make an empty entry aside and rename it into place."""
    with fill_aside(path, scratch=scratch) as folder:
        _resize(folder, layout)
        _write_meta(folder, layout, key)
        (folder / "last_used").touch()


def needs_repair(path: Path, layout: Layout) -> bool:
    """Whether the files differ from what the layout says: a truncated or overwritten entry."""
    try:
        sizes = [(path / name).stat().st_size for name in ("data.bin", "chunks.bin")]
    except OSError:
        return True
    return sizes != [layout.num_bytes, layout.num_chunks * 8] or stored_layout(path, layout) != layout


def repair(path: Path, layout: Layout, *, key: Mapping[str, Any]) -> None:
    """Give the files their sizes back in place; the checksums then tell which chunks are still good."""
    _resize(path, layout)
    _write_meta(path, layout, key)


def stored_layout(path: Path, layout: Layout) -> Layout:
    """`layout` with the chunks of the entry on disk, whose first writer chose them."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        stored = replace(layout, chunk_rows=meta["chunk_rows"])
        whole = meta == {**_meta(stored), "key": meta["key"]}
        valid = whole and 0 < stored.chunk_rows <= stored.num_rows and stored.num_chunks <= MAX_CHUNKS
    except (OSError, ValueError, KeyError, TypeError):
        return layout
    return stored if valid else layout


def _meta(layout: Layout) -> dict[str, Any]:
    row_shape = list(layout.row_shape)
    shape = {"num_rows": layout.num_rows, "row_shape": row_shape, "dtype": layout.dtype}
    return {"format": FORMAT, **shape, "chunk_rows": layout.chunk_rows}


def _write_meta(path: Path, layout: Layout, key: Mapping[str, Any]) -> None:
    save_json(path / "meta.json", {**_meta(layout), "key": dict(key)}, durable=False)


def _resize(path: Path, layout: Layout) -> None:
    """Resize the data in place; replace the records, which another process may have mapped."""
    descriptor = os.open(path / "data.bin", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(descriptor, layout.num_bytes)
    finally:
        os.close(descriptor)
    records = path / "chunks.bin"
    if not records.exists() or records.stat().st_size != layout.num_chunks * 8:
        save_bytes(records, bytes(layout.num_chunks * 8), durable=False)


def _mark(chunk: int) -> int:
    return (chunk + 1) ^ _MARK


def _as_bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        num_written = os.pwrite(descriptor, content, offset)
        content, offset = content[num_written:], offset + num_written


def _close(data: int, chunks: int, locks: RangeLocks, lock_base: int) -> None:
    os.close(data)
    os.close(chunks)
    locks.release_shared(lock_base)
