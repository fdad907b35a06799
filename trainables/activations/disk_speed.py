"""How fast this machine writes and reads back activations: memory, disk, and the way to the GPU."""

from __future__ import annotations

import os
import secrets
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TEST_BYTES = 48 * 2**20
_ROW_BYTES = 24 * 2**10
_ROWS_A_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class DiskSpeed:
    """Bytes a second."""

    write: float
    """Checksum and write, as the cache does it."""

    memory_read: float
    """Shuffled rows of a file that the page cache holds."""

    disk_read: float
    """The same after the page cache was told to forget the file."""


def measure_disk(folder: Path) -> DiskSpeed:
    """Write and read a scratch file of `TEST_BYTES` in `folder`; about 0.3 s.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"speed-{secrets.token_hex(8)}.tmp"  # two containers may have the same process ids
    content = np.random.default_rng(0).integers(0, 256, TEST_BYTES, dtype=np.uint8)
    try:
        write_seconds = _write(path, content)
        memory_seconds = _read_shuffled(path)
        _forget(path)
        disk_seconds = _read_shuffled(path)
    finally:
        path.unlink(missing_ok=True)
    speeds = (TEST_BYTES / seconds for seconds in (write_seconds, memory_seconds, disk_seconds))
    return DiskSpeed(**dict(zip(("write", "memory_read", "disk_read"), speeds, strict=True)))


def measure_transfer() -> float:
    """Bytes a second from ordinary memory to the current GPU."""
    import torch  # only where there is a GPU: this module is imported before torch is

    source = torch.zeros(TEST_BYTES, dtype=torch.uint8)
    source.to("cuda")
    torch.cuda.synchronize()
    begin = time.perf_counter()
    source.to("cuda")
    torch.cuda.synchronize()
    return TEST_BYTES / (time.perf_counter() - begin)


def available_memory_bytes() -> int:
    """Memory that files may occupy without pushing programs out; of the machine, or of its container."""
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
            part = content[start : start + 2**20]
            zlib.crc32(part.data)
            file.write(part.data)
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
