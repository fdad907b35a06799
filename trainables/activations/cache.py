"""Activation cache: outputs of frozen prefixes, computed once and read by all trials of a machine.

An entry holds all rows of one key, in chunks. The process that needs a chunk first computes it while others
take other chunks, so workers that start together share the work. Killing one loses at most the chunk that it
was computing: claims are kernel locks, and a chunk counts only with its checksum. Whatever goes wrong with
the disk, rows are still returned, computed without the cache.

The directory belongs to one machine (its page cache and its locks); it is safe to delete at any time.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

from trainables.activations.entry import (
    FORMAT,
    MAX_CHUNKS,
    Entry,
    Layout,
    create_entry,
    needs_repair,
    repair,
    stored_layout,
)
from trainables.activations.rows import Activations, CacheStats, Compute, ComputeRows, Notes
from trainables.images.cache_room import cache_room, entry_lock_base, list_entries, list_items, make_room
from trainables.images.range_locks import RangeLocks, open_locks

SPARE_DISK_BYTES = 256 * 2**20
"""Free space the cache leaves to everything else on its disk."""

_STRUCTURE_LOCK = 0  # byte 0: entries are made, repaired and evicted by one process at a time


@dataclass(frozen=True, kw_only=True)
class ActivationKey:
    """All that the output of a frozen prefix depends on. Two keys differ wherever the numbers may."""

    data: str
    """Digest of the rows' image contents, in their order."""

    backbone: str
    weights: str
    """Identity of the weights, as `WeightsSource.identity` says it."""

    depth: int | str
    """Unfreeze depth: the number of stages above the cut, which train; 0 = pooled features."""

    image_size: int
    fit: str
    policy: str
    epoch: int
    """Number of the random view; 0 = the evaluation view."""

    computed_by: str
    """Device, number format and versions, as `describe_arithmetic` says it."""

    view_seed: int = 0
    dtype: str = "float16"

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([FORMAT, asdict(self)], sort_keys=True).encode()).hexdigest()


class ActivationCache:
    """Cache entries under one directory, within a budget of bytes.

    Entries used longest ago make room for new ones, but none that a living process has open, and none used
    in the last `protect_seconds`: a search that cycles through more than the budget would otherwise
    always evict what it needs next. A new entry that finds no room is computed without the cache.
    """

    def __init__(
        self,
        root: Path,
        *,
        budget_bytes: int,
        resident_bytes: int | None = None,
        protect_seconds: float = 300.0,
        patience_seconds: float = 120.0,
        cache_dir: Path | None = None,
    ) -> None:
        """Open the cache; nothing is written before the first fetch.

        Args:
            resident_bytes: size of the entries kept open between trials; None = 1/16 of the budget, at most
                256 MB.
            patience_seconds: longest wait for a chunk that another process has claimed and does not finish.
            cache_dir: the folder around `root`, whose images and copies of buckets share the budget.
        """
        self.root = root.absolute()
        self._cache_dir = cache_dir.absolute() if cache_dir else None
        self._budget_bytes, self._protect_seconds = budget_bytes, protect_seconds
        self._patience_seconds = patience_seconds
        default = min(256 * 2**20, budget_bytes // 16)
        self._resident_bytes = default if resident_bytes is None else resident_bytes
        self._resident: OrderedDict[str, Entry] = OrderedDict()
        self._live: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        self._mutex = threading.RLock()
        self._notes = Notes()

    def fetch(
        self,
        key: ActivationKey,
        *,
        num_rows: int,
        row_shape: tuple[int, ...],
        compute: Compute,
        chunk_rows: int,
        compute_rows: ComputeRows | None = None,
    ) -> Activations:
        """Open the entry of a key, or make it; rows are computed when they are asked for.

        An entry that exists keeps the chunks it was made with. Rows are rounded to the key's type even where
        nothing is kept: a trial's numbers do not depend on what there was room for.

        Args:
            compute: gives consecutive rows, start to stop - 1.
            compute_rows: gives any rows, by index; used where the cache cannot help.
        """
        layout = Layout(num_rows=num_rows, row_shape=tuple(row_shape), dtype=key.dtype, chunk_rows=chunk_rows)
        entry = self._find(key, layout)
        return Activations(
            entry,
            entry.layout if entry else layout,
            compute=compute,
            compute_rows=compute_rows,
            notes=self._notes,
            patience_seconds=self._patience_seconds,
        )

    def stats(self) -> CacheStats:
        """A copy of the counters, which start when this object is made."""
        return replace(self._notes.stats)

    def close(self) -> None:
        """Let go of the entries kept open between trials."""
        with self._mutex:
            self._resident.clear()

    def _find(self, key: ActivationKey, layout: Layout) -> Entry | None:
        name = _entry_name(key, layout.num_rows, layout.row_shape)
        with self._mutex:
            entry = self._live.get(name)
            try:
                if entry is None or entry.given_up or not entry.touch():
                    entry = self._open(name, key, layout)
                else:
                    self._notes.count(hits=1)
                if entry is not None:
                    self._live[name] = entry
                    self._keep_resident(name, entry)
            except OSError as error:  # no disk, no rights, no locks; TimeoutError too
                advice = f"cannot use the activation cache in {self.root} ({error}); going on without it"
                self._notes.warn("use", advice)
                entry = None
            self._notes.count(refused=int(entry is None))
            return entry

    def _keep_resident(self, name: str, entry: Entry) -> None:
        self._resident[name] = entry
        self._resident.move_to_end(name)
        while sum(kept.layout.num_bytes for kept in self._resident.values()) > self._resident_bytes:
            self._resident.popitem(last=False)

    def _open(self, name: str, key: ActivationKey, layout: Layout) -> Entry | None:
        if not 0 < layout.num_bytes <= self._budget_bytes or layout.num_chunks > MAX_CHUNKS:
            return None
        self.root.mkdir(parents=True, exist_ok=True)
        locks, lock_base = open_locks(self.root / "locks"), entry_lock_base(name)
        path = self.root / name[:2] / name
        _wait_shared(locks, lock_base)  # from here on no process evicts it
        try:
            if not path.exists() and not self._create(path, key, layout):
                locks.release_shared(lock_base)
                return None
            if needs_repair(path, stored_layout(path, layout)):
                with locks.exclusive(_STRUCTURE_LOCK):
                    repair(path, stored_layout(path, layout), key=asdict(key))
            entry = Entry(path, stored_layout(path, layout), locks=locks, lock_base=lock_base)
            entry.touch()
            return entry
        except BaseException:
            locks.release_shared(lock_base)
            raise

    def _create(self, path: Path, key: ActivationKey, layout: Layout) -> bool:
        structure = open_locks(self.root / "locks").exclusive(_STRUCTURE_LOCK)
        with structure, cache_room(self._cache_dir or self.root):
            if path.exists():
                return True
            if not self._make_room(layout.num_bytes):
                advice = f"no room for {layout.num_bytes / 2**20:.0f} MB in the activation cache {self.root}"
                self._notes.warn("room", f"{advice}; computing without it")
                return False
            create_entry(path, layout, key=asdict(key), scratch=self.root)
            self._notes.count(misses=1)
            return True

    def _make_room(self, num_bytes: int) -> bool:
        """Remove unused items until the new entry fits; the caller holds the lock on the room."""
        self._resident.clear()  # what only waits for the next trial must not be in the way
        items = list_items(self._cache_dir) if self._cache_dir else list_entries(self.root)
        return make_room(
            (replace(item, remove=self._counted(item.remove)) for item in items),
            num_bytes,
            folder=self.root,
            budget_bytes=self._budget_bytes,
            spare_bytes=SPARE_DISK_BYTES,
            protect_seconds=self._protect_seconds,
        )

    def _counted(self, remove: Callable[[Path], bool]) -> Callable[[Path], bool]:
        def wrapper(path: Path) -> bool:
            removed = remove(path)
            self._notes.count(evictions=int(removed))
            return removed

        return wrapper


@lru_cache(maxsize=4096)  # hashing is most of a resident fetch
def _entry_name(key: ActivationKey, num_rows: int, row_shape: tuple[int, ...]) -> str:
    rows = json.dumps([num_rows, row_shape])
    return hashlib.sha256(f"{key.digest} {rows}".encode()).hexdigest()


def _wait_shared(locks: RangeLocks, offset: int, *, timeout_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not locks.try_shared(offset):
        if time.monotonic() > deadline:
            raise TimeoutError("an entry is being evicted and never goes")
        time.sleep(0.002)
