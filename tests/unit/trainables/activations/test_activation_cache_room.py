"""The activation cache where room is short: eviction, full disks, what is too large to keep."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cache_tools import (
    CHUNK_ROWS,
    ENTRY_BYTES,
    KEY,
    NUM_ROWS,
    ROW_SHAPE,
    Computer,
    fetch,
    fetch_many,
    is_cached,
    is_whole,
    make_cache,
    read_all,
    spawn,
    true_rows,
)


def test_the_least_recently_used_entry_makes_room(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=2 * ENTRY_BYTES, resident_bytes=0)
    for epoch, age in ((1, 50), (2, 100)):
        read_all(fetch(cache, key=replace(KEY, epoch=epoch)))
        used = max(tmp_path.glob("??/*/last_used"), key=lambda path: path.stat().st_mtime)
        os.utime(used, (time.time() - age,) * 2)

    third = fetch(cache, key=replace(KEY, epoch=3))

    assert is_cached(third)
    assert cache.stats().evictions == 1
    assert is_whole(fetch(cache, key=replace(KEY, epoch=1))) is False  # opened, its chunks not checked yet
    assert cache.stats().misses == 3 and cache.stats().hits == 0


def test_an_entry_in_use_is_never_evicted(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=ENTRY_BYTES, resident_bytes=0)
    held = fetch(cache)

    other = fetch(cache, key=replace(KEY, epoch=2))

    assert not is_cached(other) and is_cached(held)
    assert np.array_equal(other.rows([5, 40, 41]), true_rows(0, NUM_ROWS)[[5, 40, 41]])
    del held
    assert is_cached(fetch(cache, key=replace(KEY, epoch=2)))


def test_an_entry_used_a_moment_ago_is_protected(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=ENTRY_BYTES, resident_bytes=0, protect_seconds=60)
    read_all(fetch(cache))

    other = fetch(cache, key=replace(KEY, epoch=2))

    assert not is_cached(other)
    assert cache.stats().evictions == 0


@pytest.mark.slow
def test_processes_evict_at_once_and_keep_the_budget(tmp_path: Path) -> None:
    workers = [spawn.Process(target=fetch_many, args=(tmp_path, seed)) for seed in range(3)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*/data.bin")) <= 3 * ENTRY_BYTES
    assert not list(tmp_path.glob("evicted-*")) and not list(tmp_path.glob(".*.part"))


def test_what_is_larger_than_the_budget_is_computed_without_the_cache(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    cache = make_cache(tmp_path / "c", budget_bytes=ENTRY_BYTES - 1)

    activations = fetch(cache, compute)

    assert not is_cached(activations)
    assert np.array_equal(activations.rows([20, 4, 5, 21]), true_rows(0, NUM_ROWS)[[20, 4, 5, 21]])
    assert compute.starts() == [4, 20]
    assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
    assert cache.stats().refused == 1 and not list((tmp_path / "c").glob("??/*"))


def test_without_the_cache_any_rows_are_computed_in_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute_rows(indices: np.ndarray) -> np.ndarray:
        calls.append(len(indices))
        return np.asarray(true_rows(0, NUM_ROWS)[indices])

    activations = make_cache(tmp_path, budget_bytes=0).fetch(
        KEY,
        num_rows=NUM_ROWS,
        row_shape=ROW_SHAPE,
        compute=true_rows,
        chunk_rows=CHUNK_ROWS,
        compute_rows=compute_rows,
    )

    assert np.array_equal(activations.rows([9, 50, 2]), true_rows(0, NUM_ROWS)[[9, 50, 2]])
    assert calls == [3]


def test_rows_that_are_not_stored_are_rounded_alike(tmp_path: Path) -> None:
    def thirds(start: int, stop: int) -> np.ndarray:
        return true_rows(start, stop) / 3

    layout: dict[str, Any] = {"num_rows": NUM_ROWS, "row_shape": ROW_SHAPE, "chunk_rows": CHUNK_ROWS}
    cache = make_cache(tmp_path / "c")

    full = make_cache(tmp_path / "full", budget_bytes=0)
    unstored = read_all(full.fetch(KEY, compute=thirds, **layout))

    assert not (tmp_path / "full").exists()
    assert np.array_equal(unstored, read_all(cache.fetch(KEY, compute=thirds, **layout)))


def test_a_full_disk_ends_caching_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(tmp_path)
    activations = fetch(cache)
    activations.rows([0])

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        rows = read_all(activations)
        again = fetch(cache).rows([0, 99])

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert np.array_equal(again, true_rows(0, NUM_ROWS)[[0, 99]])
    assert not is_cached(activations)
    assert len(caplog.records) == 1 and "No space left" in caplog.text


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {project!r})
from tests.cache_tools import ENTRY_BYTES, NUM_ROWS, fetch, is_cached, make_cache, read_all, true_rows
cache = make_cache(Path({root!r}))
activations = fetch(cache)
resource.setrlimit(resource.RLIMIT_FSIZE, (ENTRY_BYTES // 2, ENTRY_BYTES // 2))
assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
assert not is_cached(activations) and 0 < cache.stats().chunks_computed < 13
from dataclasses import replace
from tests.cache_tools import KEY
other = fetch(cache, key=replace(KEY, epoch=9))
assert not is_cached(other) and np.array_equal(read_all(other), true_rows(0, NUM_ROWS))
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_caching(tmp_path: Path) -> None:
    script = FULL_DISK.format(project=str(Path(__file__).parents[4]), root=str(tmp_path / "c"))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "cannot write the activation cache" in done.stderr
    assert np.array_equal(read_all(fetch(make_cache(tmp_path / "c"))), true_rows(0, NUM_ROWS))


def test_a_directory_that_cannot_be_made_ends_caching(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = make_cache(tmp_path / "file" / "cache")

    activations = fetch(cache)

    assert not is_cached(activations)
    assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))


def test_numbers_beyond_half_precision_become_infinite_with_and_without_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roomy, full = make_cache(tmp_path / "roomy"), make_cache(tmp_path / "full", budget_bytes=1)

    cached, uncached = (
        fetch(cache, lambda start, stop: true_rows(start, stop) + 65_500) for cache in (roomy, full)
    )

    with np.errstate(over="ignore"):
        expected = (true_rows(0, NUM_ROWS) + 65_500).astype(np.float16)
    assert np.isinf(expected).any() and np.isfinite(expected).any()
    for activations in (cached, uncached):
        assert np.array_equal(read_all(activations), expected)
    assert is_cached(cached) and not is_cached(uncached)
    assert "beyond the range of float16 became infinite" in caplog.text
