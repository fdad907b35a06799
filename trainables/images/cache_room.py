"""Makes room in the cache folder: one budget for decoded images, activations and the copies of buckets.

Whatever was used longest ago is removed first, but nothing that a living process uses.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contract.files import LEFTOVERS, file_lock
from contract.study_layout import CachePaths
from trainables.data.datasets._copies import list_copies, remove_copies
from trainables.images.range_locks import open_locks


@dataclass(frozen=True)
class CacheItem:
    """A unit of the cache, kept or removed as a whole: image store, activation entry, copies of a bucket."""

    path: Path
    num_bytes: int
    last_used: float
    """Unix time."""

    remove: Callable[[Path], bool]
    """Removes the item at its path; returns false if a process uses it."""


@contextmanager
def room_for(
    num_bytes: int, *, cache_dir: Path, budget_gb: float | None, spare_bytes: float = 0.0
) -> Iterator[bool]:
    """Make room for `num_bytes`: the context is true if there is, and they are to be taken within it.

    Args:
        budget_gb: most that the whole cache may use; None = no limit but the disk.
        spare_bytes: free space that is left to everything else on the disk.
    """
    budget_bytes = float("inf") if budget_gb is None else budget_gb * 1e9
    with cache_room(cache_dir):
        yield make_room(
            list_items(cache_dir),
            num_bytes,
            folder=cache_dir,
            budget_bytes=budget_bytes,
            spare_bytes=spare_bytes,
        )


@contextmanager
def cache_room(folder: Path) -> Iterator[None]:
    """Lock the folder while a process looks for room and takes it, so that two do not take the same."""
    with file_lock(folder / "room.lock"):
        yield


def make_room(
    items: Iterator[CacheItem],
    num_bytes: int,
    *,
    folder: Path,
    budget_bytes: float,
    spare_bytes: float,
    protect_seconds: float = 0.0,
) -> bool:
    """Remove items until `num_bytes` more are within the budget and on the disk; false if they cannot be.

    Args:
        spare_bytes: free space that is left to everything else on the disk.
        protect_seconds: items used within the last so many seconds stay.
    """
    if num_bytes > budget_bytes:
        return False
    found = sorted(items, key=lambda item: item.last_used)
    over_budget = sum(item.num_bytes for item in found) + num_bytes - budget_bytes
    excess = max(over_budget, num_bytes + spare_bytes - shutil.disk_usage(folder).free)
    newest = time.time() - protect_seconds
    for item in found:
        if excess <= 0 or item.last_used > newest:
            break
        if item.remove(item.path):
            excess -= item.num_bytes
    return excess <= 0


def list_items(cache_dir: Path) -> Iterator[CacheItem]:
    """List all that counts against the budget."""
    yield from list_stores(CachePaths(cache_dir).images)
    yield from list_entries(CachePaths(cache_dir).activations)
    for folder, num_bytes, last_used in list_copies(cache_dir):
        yield CacheItem(folder, num_bytes, last_used, remove_copies)


def list_stores(folder: Path) -> Iterator[CacheItem]:
    """List image stores, finished or being written; a file has its full length from the start."""
    for path in [*folder.glob("*.images"), *folder.glob("*.partial")]:
        try:
            status = path.stat()
        except FileNotFoundError:  # removed or renamed meanwhile
            continue
        yield CacheItem(path, status.st_size, status.st_mtime, remove_store)


def copies_beside(path: Path) -> Path:
    """File beside a store in which its near copies are remembered; it is removed with the store."""
    return path.with_suffix(".copies.json")


def remove_store(path: Path) -> bool:
    """Remove an image store; false if a process has it open."""
    try:
        with file_lock(path, timeout_seconds=0, create=False):
            path.unlink()
        copies_beside(path).unlink(missing_ok=True)
    except OSError:  # in use, or already removed
        return False
    return True


def list_entries(root: Path) -> Iterator[CacheItem]:
    """List the entries of the activation cache, and remove what killed processes left half made."""
    for leftover in [*root.glob("evicted-*"), *root.glob(LEFTOVERS)]:
        shutil.rmtree(leftover, ignore_errors=True)
    for path in root.glob("??/*"):
        try:
            used = (path / "last_used").stat().st_mtime
            yield CacheItem(path, (path / "data.bin").stat().st_size, used, remove_entry)
        except OSError:  # half an entry: the first to go
            yield CacheItem(path, 0, 0.0, remove_entry)


def remove_entry(path: Path) -> bool:
    """Remove an activation entry; false if a process has it open."""
    root = path.parent.parent
    locks, lock_base = open_locks(root / "locks"), entry_lock_base(path.name)
    if not locks.try_exclusive(lock_base):
        return False
    try:
        aside = root / f"evicted-{os.getpid()}-{secrets.token_hex(4)}"
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError:  # already removed, or another user's
        return False
    finally:
        locks.release_exclusive(lock_base)
    return True


def entry_lock_base(name: str) -> int:
    """Offset of the entry's first byte in the lock file, which its chunks' bytes follow.

    Entries whose names begin alike share locks, which costs waiting, never results.
    """
    return (1 + int(name[:10], 16)) << 20
