"""Activations: the rows of one key, read where they are cached and computed where not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trainables.activations.entry import Entry, Layout

logger = logging.getLogger(__name__)

Compute = Callable[[int, int], np.ndarray]
"""Computes rows start..stop-1."""

ComputeRows = Callable[[np.ndarray], np.ndarray]
"""Computes any rows, by index."""


class RowSource(Protocol):
    """Activations that are read by row."""

    def rows(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Copy these rows, in this order."""


@dataclass(kw_only=True)
class CacheStats:
    """Counters of one process's use of the cache."""

    hits: int = 0
    """Fetches of an entry that was there."""

    misses: int = 0
    """Fetches of an entry that had to be made."""

    refused: int = 0
    """Fetches that got no entry: too large, no room, or no usable disk."""

    chunks_computed: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
    rows_uncached: int = 0
    """Rows computed at use and not kept."""

    evictions: int = 0
    waited_seconds: float = 0.0
    """Time spent waiting for chunks that others were computing."""


class Notes:
    """The counters and the warnings of one cache, shared by its threads; each warning is given once."""

    def __init__(self) -> None:
        self.stats = CacheStats()
        self._mutex = threading.RLock()
        self._warned: set[str] = set()

    def count(self, **amounts: float) -> None:
        with self._mutex:
            for name, amount in amounts.items():
                setattr(self.stats, name, getattr(self.stats, name) + amount)

    def warn(self, topic: str, message: str) -> None:
        with self._mutex:
            if topic not in self._warned:
                self._warned.add(topic)
                logger.warning(message)


class Activations:
    """Rows of one key; those that are missing are computed when they are asked for."""

    def __init__(
        self,
        entry: Entry | None,
        layout: Layout,
        *,
        compute: Compute,
        compute_rows: ComputeRows | None,
        notes: Notes,
        patience_seconds: float,
    ) -> None:
        self._entry, self._layout, self._notes = entry, layout, notes
        self._compute, self._compute_rows = compute, compute_rows
        self._patience_seconds = patience_seconds

    def rows(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Copy these rows, in this order; waits only until their chunks are there.

        Raises:
            IndexError: an index outside 0..num_rows-1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self._layout.num_rows:
            last = self._layout.num_rows - 1
            raise IndexError(f"rows must be in 0..{last}, got {wanted.min()}..{wanted.max()}")
        if self._entry is None or not wanted.size:
            return self._uncached(wanted)
        if not self._entry.whole:
            self._settle(self._entry, np.unique(wanted // self._layout.chunk_rows).tolist())
        return self._gather(self._entry, wanted)

    def reserve(self, start: int, stop: int) -> bool:
        """Claim a chunk whose rows a pass for another key will give; false if it is there or claimed."""
        entry, chunk = self._entry, start // self._layout.chunk_rows
        if entry is None or entry.given_up or self._layout.bounds(chunk) != (start, stop):
            return False
        return not self._is_ready(entry, chunk) and self._claim(entry, chunk)

    def release(self, start: int, values: np.ndarray | None = None) -> None:
        """End a reservation, and keep the chunk's rows if the pass gave them."""
        entry, chunk = self._entry, start // self._layout.chunk_rows
        assert entry is not None
        try:
            if values is not None and not self._is_ready(entry, chunk):
                self._write(entry, chunk, self._cast(values))
        finally:
            entry.release(chunk)

    def _gather(self, entry: Entry, wanted: np.ndarray) -> np.ndarray:
        chunks = wanted // self._layout.chunk_rows
        ready = np.ones(len(wanted), dtype=bool) if entry.whole else entry.verified[chunks]
        self._notes.count(bytes_read=int(ready.sum()) * self._layout.row_bytes)
        if ready.all():
            return entry.rows[wanted]
        computed = self._uncached(wanted[~ready])
        values = np.empty((len(wanted), *self._layout.row_shape), np.result_type(entry.rows, computed))
        values[ready] = entry.rows[wanted[ready]]
        values[~ready] = computed
        return values

    def _settle(self, entry: Entry, needed: Sequence[int]) -> None:
        """Return when the chunks are ready, or when the cache cannot give them."""
        nap, moved = 0.001, time.monotonic()
        pending = [chunk for chunk in needed if not self._provide(entry, chunk)]
        while pending and not entry.given_up:
            if not self._help(entry):
                time.sleep(nap)
                self._notes.count(waited_seconds=nap)
                nap = min(nap * 1.5, 0.02)
            waiting = [chunk for chunk in pending if not self._provide(entry, chunk)]
            if len(waiting) < len(pending):
                nap, moved = 0.001, time.monotonic()
            elif time.monotonic() - moved > self._patience_seconds:
                self._notes.warn(
                    "wait", "a process holds a chunk of the activation cache and does not finish it"
                )
                self._patience_seconds = min(self._patience_seconds, 1.0)
                return
            pending = waiting

    def _help(self, entry: Entry) -> bool:
        """Compute a chunk that no process has claimed: it will be needed soon. False if there is none."""
        return any(self._provide(entry, chunk) for chunk in entry.missing())

    def _provide(self, entry: Entry, chunk: int) -> bool:
        """Compute the chunk if it is missing and no other process computes it; true if it is ready now."""
        if self._is_ready(entry, chunk):
            return True
        if not self._claim(entry, chunk):
            return False
        try:
            if not self._is_ready(entry, chunk):  # finished by another between the look and the claim
                start, stop = self._layout.bounds(chunk)
                self._write(entry, chunk, self._cast(self._compute(start, stop)))
        finally:
            entry.release(chunk)
        return not entry.given_up

    def _is_ready(self, entry: Entry, chunk: int) -> bool:
        try:
            return entry.is_ready(chunk)
        except OSError as error:
            return self._give_up(entry, "read", error)

    def _claim(self, entry: Entry, chunk: int) -> bool:
        try:
            return not entry.given_up and entry.claim(chunk)
        except OSError as error:
            return self._give_up(entry, "lock", error)

    def _give_up(self, entry: Entry, what: str, error: OSError) -> bool:
        """Compute the rest of the entry without the cache, which is quicker than waiting for its disk."""
        entry.given_up = True
        self._notes.warn(what, f"cannot {what} the activation cache ({error}); going on without it")
        return False

    def _write(self, entry: Entry, chunk: int, values: np.ndarray) -> None:
        try:
            entry.write(chunk, values)
            self._notes.count(chunks_computed=1, bytes_written=values.nbytes)
        except OSError as error:
            self._give_up(entry, "write", error)

    def _cast(self, values: np.ndarray) -> np.ndarray:
        """Round to the stored precision; numbers beyond its range become infinite, as without the cache."""
        try:
            with np.errstate(over="raise"):
                return np.asarray(values).astype(self._layout.dtype, copy=False)
        except FloatingPointError:
            reach = f"activations beyond the range of {self._layout.dtype} became infinite"
            self._notes.warn("range", f"{reach}; trials that read them end as diverged")
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(self._layout.dtype, copy=False)

    def _uncached(self, wanted: np.ndarray) -> np.ndarray:
        if not wanted.size:
            return np.empty((0, *self._layout.row_shape), self._layout.dtype)
        self._notes.count(rows_uncached=len(wanted))
        if self._compute_rows is not None:
            return self._cast(self._compute_rows(wanted))
        rows, places = np.unique(wanted, return_inverse=True)
        breaks = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % self._layout.chunk_rows == 0)) + 1
        runs = np.split(rows, breaks)
        parts = [self._compute(int(run[0]), int(run[-1]) + 1) for run in runs]
        return self._cast(np.concatenate(parts))[places]


class MirroredActivations:
    """Rows of an epoch in which some images are mirrored; each way of mirroring has an entry of its own."""

    def __init__(
        self, *, open_entry: Callable[[int], Activations], mirrors: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Open nothing yet.

        Args:
            open_entry: gives the activations of all images mirrored in one way, by its number.
            mirrors: gives the way in which each of some rows is mirrored.
        """
        self._open_entry, self._mirrors = open_entry, mirrors
        self._entries: dict[int, Activations] = {}

    def rows(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Copy these rows, in this order, each from the entry of its mirror.

        Raises:
            IndexError: as Activations.rows.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        ways = self._mirrors(wanted)
        found: np.ndarray | None = None
        for way in np.unique(ways).tolist() or [0]:
            if way not in self._entries:
                self._entries[way] = self._open_entry(way)
            own = np.flatnonzero(ways == way)
            values = self._entries[way].rows(wanted[own])
            if found is None:
                found = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            found[own] = values
        assert found is not None
        return found


@dataclass(frozen=True)
class ActivationPart:
    """Some rows of activations, or all of them."""

    source: RowSource
    num_rows: int
    chosen: np.ndarray | None = None
    """Rows that count, in their order; None = all."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Copy these rows of those that count."""
        return self.source.rows(indices if self.chosen is None else self.chosen[indices])


class JoinedActivations:
    """Rows of several activations of one shape and type, one after the other."""

    def __init__(self, parts: Sequence[ActivationPart]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.num_rows for part in parts])

    def rows(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Copy these rows, in this order.

        Raises:
            IndexError: as Activations.rows.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        where = np.searchsorted(self._ends[:-1], wanted, side="right")
        found: np.ndarray | None = None
        for number in np.unique(where).tolist() or [0]:
            own = np.flatnonzero(where == number)
            part = self._parts[number]
            values = part.rows(wanted[own] - (self._ends[number] - part.num_rows))
            if len(own) == len(wanted):
                return values
            if found is None:
                found = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            found[own] = values
        assert found is not None
        return found
