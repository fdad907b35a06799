"""File format of an image store: a header that names and checks the content, then every image's pixels."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.decoding import Fit, Pixels
from contract.files import hold_shared

FORMAT = 1
"""Part of every key: raise it when decoding or the layout changes, and old files are no longer found."""

HEADER_BYTES = 4096
NUM_SAMPLES = 64
"""Rows whose checksums the header keeps; to check all would read the whole file."""


@dataclass(frozen=True)
class Layout:
    """What the header says: which images the file holds, and in what form."""

    key: str
    count: int
    size: int
    fit: Fit
    format: int = FORMAT

    @property
    def row_bytes(self) -> int:
        return self.size * self.size * 3

    @property
    def total_bytes(self) -> int:
        return HEADER_BYTES + self.count * self.row_bytes

    @property
    def sampled_rows(self) -> list[int]:
        """Rows spread over the file whose checksums the header keeps."""
        return sorted(set(np.linspace(0, self.count - 1, min(self.count, NUM_SAMPLES)).astype(int).tolist()))


class DamagedFile(Exception):
    """Raised for a store whose content is not what its header says."""


def seal(descriptor: int, layout: Layout) -> None:
    """Write the header and force everything to the disk; the last step before the file gets its name."""
    header = json.dumps({**asdict(layout), "checksums": _checksums(descriptor, layout)}).encode()
    os.ftruncate(descriptor, layout.total_bytes)
    write_at(descriptor, header.ljust(HEADER_BYTES), 0)
    os.fsync(descriptor)


def map_file(path: Path, layout: Layout) -> tuple[Pixels, int] | None:
    """Map a store read-only: its images, and a descriptor that marks it as in use; None if it is not there.

    Raises:
        DamagedFile: truncated, of other content, or with changed pixels.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        hold_shared(descriptor)
        if os.fstat(descriptor).st_nlink == 0:  # removed between opening and locking it
            os.close(descriptor)
            return None
        _check(descriptor, layout)
    except (DamagedFile, OSError):
        os.close(descriptor)
        raise
    shape = (layout.count, layout.size, layout.size, 3)
    if layout.count == 0:  # nothing to map
        return np.zeros(shape, dtype=np.uint8), descriptor
    os.utime(descriptor)  # the stores used longest ago are removed first
    with os.fdopen(os.dup(descriptor), "rb") as file:  # by its name another file may be found, or none
        return np.memmap(file, dtype=np.uint8, mode="r", offset=HEADER_BYTES, shape=shape), descriptor


def write_at(descriptor: int, content: bytes | NDArray[np.uint8], offset: int) -> None:
    """Write everything: on a nearly full disk a call may write less than asked; the next fails."""
    view = memoryview(content).cast("B")  # type: ignore[arg-type]
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def keep_rows(descriptor: int, row_bytes: int, rows: Sequence[int]) -> None:
    """Move the given rows, in ascending order, to the front of the pixels, over those that are left out."""
    for target, row in enumerate(rows):
        if target != row:
            content = os.pread(descriptor, row_bytes, HEADER_BYTES + row * row_bytes)
            write_at(descriptor, content, HEADER_BYTES + target * row_bytes)


def _check(descriptor: int, layout: Layout) -> None:
    if os.fstat(descriptor).st_size != layout.total_bytes:
        raise DamagedFile("its length is wrong")
    try:
        header = json.loads(os.pread(descriptor, HEADER_BYTES, 0))
        checksums = header.pop("checksums")
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedFile("its header cannot be read") from error
    if header != asdict(layout):
        raise DamagedFile("its header describes other images")
    if checksums != _checksums(descriptor, layout):
        raise DamagedFile("its pixels have changed")


def _checksums(descriptor: int, layout: Layout) -> list[int]:
    offsets = (HEADER_BYTES + row * layout.row_bytes for row in layout.sampled_rows)
    return [zlib.crc32(os.pread(descriptor, layout.row_bytes, offset)) for offset in offsets]
