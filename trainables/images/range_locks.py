"""Locks between the processes of one machine: byte ranges of a file, freed by the kernel when a process dies.

POSIX record locks belong to a process: its threads share them, and closing *any* descriptor of the file drops
them all. So each process keeps one descriptor a file for its whole life, and remembers what it holds, so that
its threads exclude each other too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
_tables: dict[Path, RangeLocks] = {}
_tables_mutex = threading.Lock()


class RangeLocks:
    """One lock a byte offset: exclusive, or shared and counted. Take it from `open_locks`, never directly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mutex = threading.RLock()  # re-entrant: a finalizer may release while this thread acquires
        self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._process = os.getpid()
        self._exclusive: set[int] = set()
        self._shared: dict[int, int] = {}

    def _after_fork(self) -> None:
        """A forked child owns none of its parent's locks: it starts with an empty table."""
        if self._process != os.getpid():
            self.mutex = threading.RLock()
            self._open()

    def _lock(self, kind: int, offset: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1, offset)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                return False
            raise
        return True

    def try_exclusive(self, offset: int) -> bool:
        """False if another process, or a thread of this one, holds the byte in any way."""
        self._after_fork()
        with self.mutex:
            if offset in self._exclusive or offset in self._shared or not self._lock(fcntl.LOCK_EX, offset):
                return False
            self._exclusive.add(offset)
            return True

    def try_shared(self, offset: int) -> bool:
        self._after_fork()
        with self.mutex:
            if offset in self._exclusive or (
                offset not in self._shared and not self._lock(fcntl.LOCK_SH, offset)
            ):
                return False
            self._shared[offset] = self._shared.get(offset, 0) + 1
            return True

    def release_exclusive(self, offset: int) -> None:
        with self.mutex:
            if self._process == os.getpid() and offset in self._exclusive:
                self._exclusive.discard(offset)
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)

    def release_shared(self, offset: int) -> None:
        with self.mutex:
            if self._process != os.getpid() or offset not in self._shared:
                return
            self._shared[offset] -= 1
            if not self._shared[offset]:
                del self._shared[offset]
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)

    @contextmanager
    def exclusive(self, offset: int, *, timeout_seconds: float = 60.0) -> Iterator[None]:
        """Wait for the byte; for sections of milliseconds.

        Raises:
            TimeoutError: another process holds it longer than `timeout_seconds` (a stopped process, say).
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.try_exclusive(offset):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._path}: locked by another process for {timeout_seconds:.0f} s")
            time.sleep(0.002)
        try:
            yield
        finally:
            self.release_exclusive(offset)


def open_locks(path: Path) -> RangeLocks:
    """The process's locks of this file: the same object for the same file."""
    path = path.resolve()
    with _tables_mutex:
        if path not in _tables:
            _tables[path] = RangeLocks(path)
        return _tables[path]


def _reset_after_fork() -> None:
    global _tables_mutex
    _tables_mutex = threading.Lock()


os.register_at_fork(after_in_child=_reset_after_fork)
