"""Cost model: decides from measured times whether caching the activations of a cut saves time.

For each cut (backbone, depth, image size, device, ...) on this machine it knows, in seconds per image,

    compute   the frozen prefix with its view: what a hit saves; the median of the last chunks computed
    write     checksum, and the write to the cache's disk
    read      gathering shuffled rows from memory, or from the disk when the entries outgrow the memory, and
              their way to the device

An entry that is used `uses` times costs `uses * compute` without the cache, and with it
`compute + write + uses * read`. It is cached if the second is at least `MARGIN` smaller: pooled features of
any backbone are, wide early maps on a fast GPU are not. Used once, nothing is.

A cut that was never timed is tried first: `worth_caching` runs `probe` on one chunk (twice where the first
run is short, since it includes warming up). Later chunks correct the figure through `record`, so a decision
taken on a busy machine is not final. Reading and writing are measured once on a machine, on the cache's disk.

The figures are in a small JSON file for each machine, in the cache directory, shared by its processes.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.files import save_json, temporary_names
from trainables.activations.rows import Compute
from trainables.data.policies import policy_identity
from trainables.images.range_locks import open_locks

MARGIN = 0.1
"""Share of the time that caching must save at least: the figures are no more accurate than that."""

NUM_SAMPLES = 9
"""Chunks whose times are kept for a cut."""

SHORT_PROBE_SECONDS = 1.0
"""A probe that takes less is run again."""

SAVE_SECONDS = 2.0
"""Shortest time between two saves of what was recorded."""

PLAIN = policy_identity("none")
"""What a cut names the images without augmentation."""

_FORMAT = 1
_LOCK = 1  # byte 1 of the cache's lock file; byte 0 is the cache's own


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What the time to compute an activation depends on."""

    backbone: str
    depth: int | str
    image_size: int
    device: str
    """"cpu", or the GPU's name."""

    policy: str = "none"
    threads: int = 1
    """Number of CPU threads of the process."""

    @property
    def name(self) -> str:
        return " ".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds per image."""

    compute: float
    write: float
    read: float

    def worth_caching(self, uses: float) -> bool:
        without, with_cache = uses * self.compute, self.compute + self.write + uses * self.read
        return with_cache < (1 - MARGIN) * without


class CostModel:
    """Measured figures of this machine, saved in `root` beside the activations."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.path = self.root / f"costs-{socket.gethostname()}.json"
        self._mutex = threading.RLock()
        self._unsaved: dict[str, list[float]] = {}
        self._saved_at = 0.0
        self._known = self._load()

    def worth_caching(
        self,
        cut: Cut,
        *,
        row_bytes: int,
        num_rows: int,
        uses: float = 2.0,
        probe: Callable[[], int] | None = None,
    ) -> bool:
        """Whether caching a cut saves time when each of its entries is used `uses` times.

        Args:
            probe: computes the activations of some images and returns how many; run only if the cut was never
                timed.
        """
        if uses <= 1:
            return False
        if self.compute_seconds(cut) is None:
            plain = self.costs(replace(cut, policy=PLAIN), row_bytes=row_bytes, num_rows=num_rows)
            if plain is not None and plain.worth_caching(uses):
                return True  # augmentation only adds to the time
            if probe is None:
                return False
            self._time(cut, probe)
        costs = self.costs(cut, row_bytes=row_bytes, num_rows=num_rows)
        return costs is not None and costs.worth_caching(uses)

    def costs(self, cut: Cut, *, row_bytes: int, num_rows: int) -> Costs | None:
        """The figures of a cut; None if it was never timed or the disk cannot be used."""
        compute, speed = self.compute_seconds(cut), self.disk_speed()
        if compute is None or speed is None:
            return None
        fits = num_rows * row_bytes < 0.5 * available_memory_bytes()
        read = row_bytes / (speed.memory_read if fits else min(speed.memory_read, speed.disk_read))
        if cut.device != "cpu":
            read += row_bytes / self.transfer_speed(cut.device)
        return Costs(compute=compute, write=row_bytes / speed.write, read=read)

    def compute_seconds(self, cut: Cut) -> float | None:
        """Seconds per image to compute the activations; None if never timed on this machine."""
        with self._mutex:
            samples = self._known["compute"].get(cut.name)
            return statistics.median(samples) if samples else None

    def record(self, cut: Cut, *, images: int, seconds: float) -> None:
        """Note how long a chunk took to compute; it is saved at most every `SAVE_SECONDS`."""
        if images <= 0 or not seconds > 0:
            return
        with self._mutex:
            known = self._known["compute"]
            known[cut.name] = [*known.get(cut.name, []), seconds / images][-NUM_SAMPLES:]
            self._unsaved.setdefault(cut.name, []).append(seconds / images)
            if time.monotonic() - self._saved_at > SAVE_SECONDS:
                self.save()

    def timed(self, cut: Cut, compute: Compute) -> Compute:
        """Wrap `compute` to record its times. It returns numpy arrays, so no queued GPU work is missed."""

        def compute_and_record(start: int, stop: int) -> np.ndarray:
            begin = time.perf_counter()
            rows = compute(start, stop)
            self.record(cut, images=stop - start, seconds=time.perf_counter() - begin)
            return rows

        return compute_and_record

    def disk_speed(self) -> DiskSpeed | None:
        """Speed of the cache's disk and the memory, measured once; None if the disk is read-only."""
        with self._mutex:
            if self._known["disk"] is None:
                try:
                    self._known["disk"] = asdict(measure_disk(self.root))
                except OSError:
                    return None
                self.save()
            return DiskSpeed(**self._known["disk"])

    def transfer_speed(self, device: str) -> float:
        """Bytes per second from memory to the GPU, measured once for a device."""
        with self._mutex:
            if device not in self._known["transfer"]:
                self._known["transfer"][device] = measure_transfer()
                self.save()
            return float(self._known["transfer"][device])

    def save(self) -> None:
        """Merge what this process measured into the file; a file that cannot be written is ignored."""
        with self._mutex:
            self._saved_at = time.monotonic()
            try:
                with open_locks(self.root / "locks").exclusive(_LOCK, timeout_seconds=5):
                    self._merge()
                    save_json(self.path, self._known, durable=False)
            except OSError:
                return
            self._unsaved.clear()

    def _merge(self) -> None:
        """Read other processes' figures, and add what only this one has measured."""
        mine, self._known = self._known, self._load()
        for name, samples in self._unsaved.items():
            merged = [*self._known["compute"].get(name, []), *samples]
            self._known["compute"][name] = merged[-NUM_SAMPLES:]
        self._known["transfer"] = {**mine["transfer"], **self._known["transfer"]}
        self._known["disk"] = self._known["disk"] or mine["disk"]

    def _time(self, cut: Cut, probe: Callable[[], int]) -> None:
        images, seconds = _clock(probe)
        if seconds < SHORT_PROBE_SECONDS:
            images, seconds = _clock(probe)
        self.record(cut, images=images, seconds=seconds)

    def _load(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"format": _FORMAT, "disk": None, "transfer": {}, "compute": {}}
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            if known["format"] != _FORMAT or set(known) != set(empty):
                return empty
            if known["disk"] is not None:
                DiskSpeed(**known["disk"])
            known["compute"] = {
                name: [float(x) for x in samples] for name, samples in known["compute"].items()
            }
            known["transfer"] = {name: float(speed) for name, speed in known["transfer"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent or damaged: measure again
            return empty
        return dict(known)


def _clock(probe: Callable[[], int]) -> tuple[int, float]:
    begin = time.perf_counter()
    images = probe()
    return images, time.perf_counter() - begin


TEST_BYTES = 48 * 2**20
_ROW_BYTES = 24 * 2**10
_ROWS_A_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class DiskSpeed:
    """Bytes per second."""

    write: float
    """Checksum and write, as the cache does it."""

    memory_read: float
    """Reading shuffled rows of a file that the page cache holds."""

    disk_read: float
    """The same after the page cache was told to forget the file."""


def measure_disk(folder: Path) -> DiskSpeed:
    """Time a scratch file of `TEST_BYTES` in `folder`, which takes about 0.3 s.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = np.random.default_rng(0).integers(0, 256, TEST_BYTES, dtype=np.uint8)
    with temporary_names(folder / "speed") as (path,):
        write_seconds = _write(path, content)
        memory_seconds = _read_shuffled(path)
        _forget(path)
        disk_seconds = _read_shuffled(path)
    speeds = (TEST_BYTES / seconds for seconds in (write_seconds, memory_seconds, disk_seconds))
    return DiskSpeed(**dict(zip(("write", "memory_read", "disk_read"), speeds, strict=True)))


def measure_transfer() -> float:
    """Bytes per second from pageable memory to the current GPU."""
    import torch  # only where there is a GPU: this module is imported before torch is

    source = torch.zeros(TEST_BYTES, dtype=torch.uint8)
    source.to("cuda")
    torch.cuda.synchronize()
    begin = time.perf_counter()
    source.to("cuda")
    torch.cuda.synchronize()
    return TEST_BYTES / (time.perf_counter() - begin)


def available_memory_bytes() -> int:
    """Memory of the machine, or of its container, that cached files may take without displacing programs."""
    available = _available_on_machine()
    for folder, limit, field in (
        ("", "memory.max", "anon"),
        ("memory", "memory.limit_in_bytes", "total_rss"),
    ):
        cgroup = Path("/sys/fs/cgroup") / folder
        try:
            stat = dict(
                line.split() for line in (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
            available = min(available, int((cgroup / limit).read_text(encoding="utf-8")) - int(stat[field]))
        except (OSError, ValueError, KeyError):  # no such file, or "max"
            continue
    return max(available, 0)


def _available_on_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _write(path: Path, content: np.ndarray) -> float:
    begin = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, len(content), 2**20):
            block = content[start : start + 2**20]
            zlib.crc32(block.data)
            file.write(block.data)
    return time.perf_counter() - begin


def _read_shuffled(path: Path) -> float:
    rows = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, _ROW_BYTES).view(np.ndarray)
    order = np.random.default_rng(1).permutation(len(rows))
    begin = time.perf_counter()
    for start in range(0, len(order), _ROWS_A_BATCH):
        _ = rows[order[start : start + _ROWS_A_BATCH]]
    return time.perf_counter() - begin


def _forget(path: Path) -> None:
    """Flush the file and drop its pages, so that the next read comes from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
