"""Checkpoints of a trial that survive a kill, a torn file and a worker that does not know it was replaced."""

from __future__ import annotations

import fcntl
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEWEST = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
_ATTEMPT = "attempt"


class Superseded(RuntimeError):
    """A newer attempt at the trial has begun: this one must not write any more."""


def begin_attempt(directory: Path, attempt: int) -> None:
    """Fence off all older attempts, before reading what they left.

    Raises:
        Superseded: a newer one has begun.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _lock(directory):
        _claim(directory, attempt)


def save_checkpoint(directory: Path, state: dict[str, Any], *, attempt: int) -> None:
    """Replace the newest checkpoint; the one before it is kept until the next.

    Args:
        state: tensors, numbers, strings and containers of them: nothing else loads again.

    Raises:
        Superseded: a newer attempt has begun.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _lock(directory):
        _claim(directory, attempt)
        newest = directory / NEWEST
        part = _write_state(newest, state)
        if newest.exists():
            newest.replace(directory / PREVIOUS)
        part.replace(newest)
        _sync(directory)


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None."""
    for name in (NEWEST, PREVIOUS):
        state = load_state(directory / name)
        if state is not None:
            return state
    return None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a file of tensors that is there wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_state(path, state).replace(path)
    _sync(path.parent)


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote; None where the file is absent or torn."""
    import torch

    # torch takes anything but an archive for its old format, and then fails in every way there is.
    if not zipfile.is_zipfile(path):
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError):
        return None
    return state


def _claim(directory: Path, attempt: int) -> None:
    path = directory / _ATTEMPT
    newest = int(path.read_text(encoding="utf-8")) if path.exists() else -1
    if newest > attempt:
        raise Superseded(f"attempt {attempt} was replaced by attempt {newest} in {directory}")
    if newest < attempt:
        part = _part(path)
        part.write_text(str(attempt), encoding="utf-8")
        part.replace(path)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _write_state(path: Path, state: dict[str, Any]) -> Path:
    """Write to a temporary name beside the path, to the disk itself; the caller renames it."""
    import torch

    part = _part(path)
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Held while an attempt is compared and a file renamed; the kernel frees it when a process dies."""
    with (directory / ".lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
