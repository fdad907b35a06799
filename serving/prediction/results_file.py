"""Appends rows to a file so that a killed run, started again by the same line, writes each photo just once.

Where a run goes on is stored nowhere: the rows in the file are the position. They are read again from the
first to the last whole one, each compared with the photo that is listed in its place, and the next photo is
the first without a row. What follows the last whole row is the end of a write that was cut, and is cut off.
Beside the file lies another, FILE.run.json, which says by what model and flags it was written: rows of two
models are never mixed.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from contract.environment import why_not_writable
from contract.files import file_lock, save_json
from serving.prediction.rows import Row, RowFormat

SYNC_SECONDS = 5.0
"""Longest time that rows may be lost with the machine's power; a kill of the process loses no row."""

MOST_RECORD_BYTES = 16 * 2**20
WAY_OUT = "name another --out, or pass --overwrite to begin anew"


class ResultsFile:
    """The rows of a run, on their way to a file."""

    def __init__(self, path: Path, row_format: RowFormat) -> None:
        self.path, self.num_rows = path, 0
        self._format = row_format
        self._end = 0
        self._file: io.FileIO | None = None
        self._synced = time.monotonic()

    def earlier(self) -> Iterator[Row]:
        """Yield the rows that an earlier run wrote, to their end; nothing of a new file.

        Raises:
            ValueError: what stands in the middle of the file is no row.
        """
        with self.path.open("rb") as file:
            header = file.readline(MOST_RECORD_BYTES)
            if not header.endswith(b"\n") and self._format.header:
                return  # cut before its end, or nothing at all
            if self._format.header:
                if header != self._format.header:
                    raise ValueError(f"{self.path} does not begin with the columns of this run: {WAY_OUT}")
                self._end = len(header)
            else:
                file.seek(0)
            for record in _split(file, self._format):
                try:
                    row = self._format.parse(record)
                except (ValueError, KeyError, TypeError) as error:
                    if not record.strip(b"\0") or not file.read(1):
                        return  # the end of a file that a machine wrote when its power failed
                    raise ValueError(
                        f"{self.path}: row {self.num_rows + 1} is none that was written here: {WAY_OUT}"
                    ) from error
                self._end += len(record)
                self.num_rows += 1
                yield row

    def start(self) -> None:
        """Cut off what follows the last whole row, and be ready to append."""
        with self.path.open("r+b") as file:
            file.truncate(self._end)
        self._file = self.path.open("ab", buffering=0)
        if self._end == 0:
            self._write(self._format.header)

    def append(self, rows: Sequence[Row]) -> None:
        """Hand rows to the system, so that they outlive this process; now and then, force them to the disk.

        Raises:
            OSError: they could not be written.
        """
        self._write(b"".join(map(self._format.write, rows)))
        self.num_rows += len(rows)
        if time.monotonic() > self._synced + SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Force all rows to the disk."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        """Close after an error; what is written stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        left = memoryview(content)
        while left:  # a write to a disk that is nearly full may be a short one
            left = left[self._file.write(left) :]

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _split(file: BinaryIO, row_format: RowFormat) -> Iterator[bytes]:
    """Yield the whole records of a file; one that has no end is left out."""
    record = b""
    for line in file:
        record = record + line if record else line
        if not record.endswith(b"\n") or len(record) > MOST_RECORD_BYTES:
            return
        if row_format.is_whole(record):
            yield record
            record = b""


def check_out(path: Path) -> None:
    """Look whether a file can be written, before anything is loaded.

    Raises:
        ValueError: it is a folder, a pipe or a device, or its folder is missing or cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: pass the name of a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: leave --out out, and the rows go to standard output")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {path.parent} does not exist")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written: check its permissions")
    if reason := why_not_writable(path.parent):
        raise ValueError(f"{path} cannot be written: {reason}")


def sidecar_of(path: Path) -> Path:
    """The file beside the results that says what they are of."""
    return path.with_name(f"{path.name}.run.json")


def check_same_run(path: Path, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Look whether the file, if there is one, is of the same model and flags.

    Raises:
        ValueError: it is another program's, or of another model or of other flags; with the way out.
    """
    if overwrite or not path.exists() or path.stat().st_size == 0:
        return
    try:
        before = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} exists, and no run of predict wrote it: {WAY_OUT}") from None
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{sidecar_of(path)} is damaged: {WAY_OUT}")
    if other := [name for name, value in facts.items() if before.get(name) != value]:
        told = [name.replace("_", " ") for name in other]
        raise ValueError(f"{path} is of a run with another {', another '.join(told)}: {WAY_OUT}")


@contextmanager
def open_results(
    path: Path, row_format: RowFormat, facts: Mapping[str, Any], *, overwrite: bool
) -> Iterator[ResultsFile]:
    """Hold a file of results, new or of an earlier run of the same model and flags.

    Raises:
        ValueError: `check_same_run`, or another process is writing it now.
        OSError: it cannot be written.
    """
    check_same_run(path, facts, overwrite=overwrite)
    try:
        with file_lock(path, timeout_seconds=0):
            check_same_run(path, facts, overwrite=overwrite)  # another may have begun it meanwhile
            if overwrite:
                os.truncate(path, 0)
            save_json(sidecar_of(path), dict(facts))
            results = ResultsFile(path, row_format)
            try:
                yield results
                results.close()
            finally:
                results.abandon()
    except BlockingIOError:
        raise ValueError(f"{path}: another run is writing it now; name another --out") from None
