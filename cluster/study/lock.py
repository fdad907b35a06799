"""One driver per study: a lock that names its owner and falls to the next one when the owner is dead."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger("unfreeze")
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""After this long without a heartbeat a driver on another host may take the study over."""
LOST_SECONDS = 600.0
"""After this long without a heartbeat the driver itself gives up, as it does for a silent database.

It may wait longer than STALE_SECONDS, because the database refuses a driver that was taken over.
"""


class StudyLock:
    """Held from `acquire_lock` to `release`; a thread keeps its heartbeat."""

    def __init__(
        self, path: Path, owner: dict[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._owner = owner
        self._clock = clock
        self._released = threading.Event()
        self._is_taken = False
        self._last_beat = clock()
        self._thread = threading.Thread(target=self._beat, name="study-lock", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Tells this driver from every other; the study database knows it, too."""
        return str(self._owner["token"])

    @property
    def lost(self) -> str | None:
        """Why this driver must stop at once; None while it holds the lock."""
        if self._is_taken:
            return "another process has taken this study over; it goes on there"
        silent = self._clock() - self._last_beat
        # By the clock, and not by an error: on a share that hangs the heartbeat waits without an error.
        if silent > LOST_SECONDS:
            return (
                f"{self._path} could not be renewed for {silent / 60:.0f} minutes: "
                "see whether its disk answers, then run the same command to continue"
            )
        return None

    def release(self) -> None:
        self._released.set()
        self._thread.join(timeout=5)
        if self._thread.is_alive():  # it hangs in a share that does not answer; so would this thread
            logger.warning("%s does not answer and is left as it is", self._path)
            return
        try:
            with _opened(self._path) as file:
                if _read(file).get("token") == self.token:
                    os.ftruncate(file, 0)
        except OSError as error:
            logger.warning("%s could not be released (%s)", self._path, error.strerror)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                with _opened(self._path) as file:
                    self._is_taken = _read(file).get("token") != self.token
                    if self._is_taken:
                        return
                    os.utime(file)
            except OSError as error:
                logger.debug("%s cannot be renewed (%s): trying again", self._path, error.strerror)
                continue
            self._last_beat = self._clock()


def acquire_lock(path: Path) -> StudyLock:
    """Take the study's lock.

    Raises:
        ValueError: a living driver holds it.
    """
    me = {
        "host": socket.gethostname(),
        "namespace": _process_namespace(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "token": secrets.token_hex(8),
    }
    with _opened(path) as file:
        owner = _read(file)
        if owner and _is_alive(owner, silent_seconds=_silence(path, os.fstat(file).st_mtime)):
            raise ValueError(
                f"study {path.parent.name} is being run by process {owner['pid']} on {owner['host']}: "
                "stop that one first, or give this one another --study name"
            )
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(me).encode(), 0)
        os.fsync(file)
    return StudyLock(path, me)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The lock file, with the kernel's own lock held for the few milliseconds of a look and a write."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _read(file: int) -> dict[str, Any]:
    """The owner; empty when there is none, or when it died while writing its name."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and {"host", "pid", "started", "token"} <= owner.keys() else {}


def _is_alive(owner: dict[str, Any], *, silent_seconds: float) -> bool:
    here = (socket.gethostname(), _process_namespace())
    if (owner["host"], owner.get("namespace")) != here:
        return silent_seconds < STALE_SECONDS
    started = _process_start(owner["pid"])
    return started is not None and started == str(owner["started"])


def _process_namespace() -> str:
    """Within what process numbers are unique: the kernel since its start, and the container's own numbering.

    Host names do not tell: two containers may share one, and number their processes from 1 each. Empty on a
    system without /proc, which has no such containers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When the process started, None when there is none: a process number alone may have been given anew."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_without_proc(pid)
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


def _start_without_proc(pid: int) -> str | None:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def _silence(path: Path, last_beat: float) -> float:
    """Seconds since the heartbeat by the file system's clock: those of two hosts may differ."""
    probe = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return now - last_beat
