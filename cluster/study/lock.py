"""The study's lock: one driver at a time; a file names it, and another may take over once it is dead."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from contract.files import file_lock

logger = logging.getLogger("unfreeze")
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""After this long without a heartbeat a driver on another host may take the study over."""
LOST_SECONDS = 600.0
"""After this long without a heartbeat the driver itself gives up, as it does for a silent database.

It may wait longer than STALE_SECONDS, because the database refuses a driver that was taken over.
"""


class StudyLock:
    """A lock that is held from `acquire_lock` to `release`, with a thread for its heartbeat."""

    def __init__(
        self, path: Path, owner: dict[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._owner = owner
        self._clock = clock
        self._released = threading.Event()
        self._is_taken = False
        self._trying_since: float | None = None
        """When the first attempt began that no success has followed yet; None while the thread sleeps, which
        may be for hours in a process that Ctrl-Z has stopped."""
        self._thread = threading.Thread(target=self._beat, name="study-lock", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Identifies this driver; the study database records it, too."""
        return str(self._owner["token"])

    @property
    def lost(self) -> str | None:
        """Why this driver must stop at once; None while it holds the lock."""
        if self._is_taken:
            return "another process has taken this study over; it goes on there"
        since = self._trying_since
        silent = 0.0 if since is None else self._clock() - since
        # Judged by the clock, because a heartbeat on a share that hangs waits without an error.
        if silent > LOST_SECONDS:
            return (
                f"{self._path} could not be renewed for {silent / 60:.0f} minutes: "
                "see whether its disk answers, then run the same command to continue"
            )
        return None

    def release(self) -> None:
        """Give the lock up, so that the next driver need not wait; never raises."""
        self._released.set()
        self._thread.join(timeout=5)
        if self._thread.is_alive():  # it hangs on a share that does not answer, as this thread would
            logger.warning("%s does not answer and is left as it is", self._path)
            return
        try:
            with _locked(self._path) as file:
                if _read(file).get("token") == self.token:
                    os.ftruncate(file, 0)
        except OSError as error:
            logger.warning("%s could not be released (%s)", self._path, error.strerror)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            if self._trying_since is None:
                self._trying_since = self._clock()
            try:
                with _locked(self._path) as file:
                    self._is_taken = _read(file).get("token") != self.token
                    if self._is_taken:
                        return
                    os.utime(file)
            except OSError as error:
                logger.debug("%s cannot be renewed (%s): trying again", self._path, error.strerror)
                continue
            self._trying_since = None


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
    with _locked(path) as file:
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


def _locked(path: Path) -> AbstractContextManager[int]:
    """Descriptor of the lock file under the kernel's lock, for the milliseconds of a look and a write.

    A study directory that was deleted is not made again.
    """
    return file_lock(path, create=path.parent.exists())


def _read(file: int) -> dict[str, Any]:
    """The owner; empty if there is none, or if it died while it wrote its name."""
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
    """Identifies the scope in which process numbers are unique: the kernel's boot and the container.

    A host name does not suffice, because two containers may share one and each number processes from 1. Empty
    on a system without /proc, which has no such containers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When the process started, since numbers are reused; None if there is no such process."""
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
    """Seconds since the heartbeat by the file system's clock, because the clocks of two hosts may differ."""
    probe = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return now - last_beat
