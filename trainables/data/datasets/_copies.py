"""Copies of buckets on this machine: how much disk they take, when they were used, and whether they are now.

Beside a folder of copies lies a file of the same name and `.used`: it holds the number of bytes, its time is
that of the last use, and a process that may still read the copies keeps a shared lock on it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from contract.files import file_lock, hold_shared

_kept: dict[Path, int] = {}
"""Descriptors by folder, open for as long as this process lives: with each goes a shared lock."""


def keep_copies(folder: Path) -> int:
    """Keep the copies while this process lives, and note their use; returns the lock's descriptor.

    If another process is removing them, it is waited for.
    """
    descriptor, path = _kept.get(folder), _used_file(folder)
    if descriptor is None or not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _kept[folder] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        hold_shared(descriptor)
    os.utime(descriptor)
    return descriptor


def write_size(folder: Path, num_bytes: int) -> None:
    """Note how many bytes the copies take, counting those that are about to be copied."""
    # One write of a fixed width, so that a reader never sees half of a number.
    os.pwrite(keep_copies(folder), f"{num_bytes:020}".encode(), 0)


def read_size(folder: Path) -> int:
    """Bytes that `write_size` noted last; 0 if it never did."""
    try:
        return int(_used_file(folder).read_text(encoding="ascii") or 0)
    except FileNotFoundError:
        return 0


def measure_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def list_copies(cache_dir: Path) -> Iterator[tuple[Path, int, float]]:
    """List every folder of copies, with its bytes and the Unix time of its last use."""
    for used in cache_dir.glob("datasets/*.used"):
        folder = used.with_suffix("")
        yield folder, read_size(folder), used.stat().st_mtime


def remove_copies(folder: Path) -> bool:
    """Remove a folder of copies; false if a process uses it."""
    try:
        with file_lock(_used_file(folder), timeout_seconds=0, create=False) as used:
            shutil.rmtree(folder)
            os.ftruncate(used, 0)
    except OSError:  # in use, another user's, or already removed
        return False
    return True


def _used_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.used")
