"""The activation cache: shared work, killed workers, damaged files, full disks, eviction."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.sharing.activation_cache import ActivationCache, ActivationKey
from trainables.sharing.activations import Activations

NUM_ROWS, ROW_SHAPE, CHUNK_ROWS = 100, (4, 3), 8
NUM_CHUNKS = 13
ENTRY_BYTES = NUM_ROWS * 12 * 2
KEY = ActivationKey(
    data="d1", backbone="lite0", weights="w1", depth=1, image_size=128, fit="crop", policy="flip", epoch=1
)
spawn = multiprocessing.get_context("spawn")


def true_rows(start: int, stop: int) -> np.ndarray:
    rows = np.arange(start, stop, dtype=np.float32)[:, None, None]
    return np.broadcast_to(rows, (stop - start, *ROW_SHAPE)) + np.arange(12, dtype=np.float32).reshape(
        ROW_SHAPE
    )


class Computer:
    """`true_rows`, counting its calls in a file that several processes append to."""

    def __init__(self, log: Path, *, seconds: float = 0.0) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, start: int, stop: int) -> np.ndarray:
        with self.log.open("a") as log:
            log.write(f"{start}\n")
        time.sleep(self.seconds)
        return true_rows(start, stop)

    def starts(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def make_cache(root: Path, **settings: Any) -> ActivationCache:
    return ActivationCache(root, **{"budget_bytes": 10**8, "protect_seconds": 0.0, **settings})


def fetch(
    cache: ActivationCache, compute: Callable[[int, int], np.ndarray] = true_rows, key: ActivationKey = KEY
) -> Activations:
    return cache.fetch(key, num_rows=NUM_ROWS, row_shape=ROW_SHAPE, compute=compute, chunk_rows=CHUNK_ROWS)


def entry_path(root: Path) -> Path:
    (path,) = root.glob("??/*")
    return path


def read_shuffled(root: Path, log: Path, seed: int, seconds: float, budget_bytes: int = 10**8) -> None:
    """What a worker does: batches in a random order. Fails on any wrong number."""
    cache = make_cache(root, budget_bytes=budget_bytes)
    activations = fetch(cache, Computer(log, seconds=seconds))
    for batch in np.array_split(np.random.default_rng(seed).permutation(NUM_ROWS), 10):
        expected = true_rows(0, NUM_ROWS)[batch]
        assert np.array_equal(activations.rows(batch), expected.astype(np.float16))


def fetch_many(root: Path, seed: int) -> None:
    """Fetch random entries of a cache with room for three of them."""
    cache = make_cache(root, budget_bytes=3 * ENTRY_BYTES, resident_bytes=ENTRY_BYTES)
    choose = random.Random(seed)
    for _ in range(60):
        key = replace(KEY, epoch=choose.randrange(8))
        assert np.array_equal(fetch(cache, key=key).array(), true_rows(0, NUM_ROWS))


def hang_in_chunk(root: Path, started: Path) -> None:
    def compute(_start: int, _stop: int) -> np.ndarray:
        started.touch()
        time.sleep(60)
        raise AssertionError("was to be killed")

    fetch(make_cache(root), compute).rows([0])


def start_hanging(root: Path, tmp_path: Path) -> Any:
    process = spawn.Process(target=hang_in_chunk, args=(root, tmp_path / "started"))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    return process


def test_a_second_fetch_reads_what_the_first_computed(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    fetch(make_cache(tmp_path / "c"), compute).array()

    rows = fetch(make_cache(tmp_path / "c"), compute).array()

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert rows.dtype == np.float16 and not rows.flags.writeable
    assert len(compute.starts()) == NUM_CHUNKS


def test_only_the_chunks_asked_for_are_computed(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    activations = fetch(make_cache(tmp_path / "c"), compute)

    rows = activations.rows([99, 3, 3, 17])

    assert np.array_equal(rows, true_rows(0, NUM_ROWS)[[99, 3, 3, 17]])
    assert sorted(compute.starts()) == [0, 16, 96]
    assert not activations.whole


def test_an_index_outside_is_refused(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path / "c"))

    with pytest.raises(IndexError, match=r"0\.\.99, got -1\.\.100"):
        activations.rows([-1, 100])


@pytest.mark.parametrize("field", [field.name for field in fields(ActivationKey)])
def test_keys_that_differ_in_one_field_share_nothing(field: str) -> None:
    value = getattr(KEY, field)

    changed: dict[str, Any] = {field: value + 1 if isinstance(value, int) else f"{value}x"}
    other = replace(KEY, **changed)

    assert other.digest != KEY.digest


def test_another_number_of_rows_is_another_entry(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    fetch(cache).array()

    longer = cache.fetch(KEY, num_rows=104, row_shape=ROW_SHAPE, compute=true_rows, chunk_rows=CHUNK_ROWS)

    assert np.array_equal(longer.array(), true_rows(0, 104))


def test_an_entry_keeps_the_chunks_it_was_made_with(tmp_path: Path) -> None:
    fetch(make_cache(tmp_path / "c")).array()
    compute = Computer(tmp_path / "log")

    activations = make_cache(tmp_path / "c").fetch(
        KEY, num_rows=NUM_ROWS, row_shape=ROW_SHAPE, compute=compute, chunk_rows=5
    )

    assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
    assert compute.starts() == []


def test_a_fetch_of_a_resident_entry_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    fetch(cache).array()

    seconds = []
    for _ in range(200):
        begin = time.perf_counter()
        fetch(cache)
        seconds.append(time.perf_counter() - begin)

    assert np.median(seconds) < 0.0005
    assert cache.stats().hits == 200 and cache.stats().misses == 1


def test_threads_of_one_process_share_the_work(tmp_path: Path) -> None:
    cache, compute = make_cache(tmp_path / "c"), Computer(tmp_path / "log", seconds=0.01)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(cache, compute).array())) for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(compute.starts()) == list(range(0, NUM_ROWS, CHUNK_ROWS))
    assert all(np.array_equal(rows, true_rows(0, NUM_ROWS)) for rows in results) and len(results) == 4


@pytest.mark.slow
def test_processes_share_the_work(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [
        spawn.Process(target=read_shuffled, args=(tmp_path / "c", log, seed, 0.05)) for seed in range(3)
    ]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(Computer(log).starts()) == list(range(0, NUM_ROWS, CHUNK_ROWS))


@pytest.mark.slow
def test_a_chunk_of_a_killed_process_is_computed_by_the_next(tmp_path: Path) -> None:
    process = start_hanging(tmp_path / "c", tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    begin = time.perf_counter()

    rows = fetch(make_cache(tmp_path / "c")).array()

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert time.perf_counter() - begin < 1


@pytest.mark.slow
def test_a_process_that_stands_still_does_not_stop_the_others(tmp_path: Path) -> None:
    process = start_hanging(tmp_path / "c", tmp_path)
    cache = make_cache(tmp_path / "c", patience_seconds=0.2)

    try:
        rows = fetch(cache).array()
    finally:
        process.kill()
        process.join()

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert cache.stats().rows_uncached == CHUNK_ROWS
    assert cache.stats().chunks_computed == NUM_CHUNKS - 1


@pytest.mark.slow
def test_workers_killed_at_random_moments_leave_only_true_numbers(tmp_path: Path) -> None:
    chance, log = random.Random(7), tmp_path / "log"
    for round_number in range(8):
        if round_number % 4 == 0:
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
        workers = [
            spawn.Process(target=read_shuffled, args=(tmp_path / "c", log, seed, 0.01)) for seed in range(2)
        ]
        for worker in workers:
            worker.start()
        num_started = len(Computer(log).starts())
        while any(worker.is_alive() for worker in workers) and len(Computer(log).starts()) == num_started:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.08)
        for worker in workers:
            worker.kill()
            worker.join()

        activations = fetch(make_cache(tmp_path / "c"))

        assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
        assert activations.whole


def test_a_compute_that_raises_leaves_its_chunk_to_the_next(tmp_path: Path) -> None:
    def fail(_start: int, _stop: int) -> np.ndarray:
        raise RuntimeError("out of memory")

    cache = make_cache(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        fetch(cache, fail).rows([0])

    assert np.array_equal(fetch(cache).rows([0]), true_rows(0, 1))


def test_a_changed_byte_costs_one_chunk(tmp_path: Path) -> None:
    fetch(make_cache(tmp_path / "c")).array()
    with (entry_path(tmp_path / "c") / "data.bin").open("r+b") as data:
        data.seek(ENTRY_BYTES // 2)
        data.write(b"\xff")
    compute = Computer(tmp_path / "log")

    rows = fetch(make_cache(tmp_path / "c"), compute).array()

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert compute.starts() == [48]


@pytest.mark.parametrize("name", ["data.bin", "chunks.bin", "meta.json", "last_used"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "grown", "deleted", "garbage"])
def test_a_damaged_file_is_found_and_rebuilt(tmp_path: Path, name: str, damage: str) -> None:
    fetch(make_cache(tmp_path)).array()
    path = entry_path(tmp_path) / name
    content = path.read_bytes()
    changed = {"cut": content[: len(content) // 3], "grown": content + b"x" * 5000}
    path.write_bytes(changed.get(damage, b"" if damage == "emptied" else bytes(range(256)) * 3))
    if damage == "deleted":
        path.unlink()

    activations = fetch(make_cache(tmp_path))

    assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
    assert activations.whole and activations.cached
    assert (entry_path(tmp_path) / "data.bin").stat().st_size == ENTRY_BYTES


def test_the_directory_may_be_deleted_while_it_is_used(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c")
    activations = fetch(cache)
    activations.rows([0])
    shutil.rmtree(tmp_path / "c")

    rows = activations.array()

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert np.array_equal(fetch(make_cache(tmp_path / "c")).array(), true_rows(0, NUM_ROWS))


def test_the_least_recently_used_entry_makes_room(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=2 * ENTRY_BYTES, resident_bytes=0)
    for epoch, age in ((1, 50), (2, 100)):
        fetch(cache, key=replace(KEY, epoch=epoch)).array()
        used = max(tmp_path.glob("??/*/last_used"), key=lambda path: path.stat().st_mtime)
        os.utime(used, (time.time() - age,) * 2)

    third = fetch(cache, key=replace(KEY, epoch=3))

    assert third.cached
    assert cache.stats().evictions == 1
    assert fetch(cache, key=replace(KEY, epoch=1)).whole is False  # opened, its chunks not checked yet
    assert cache.stats().misses == 3 and cache.stats().hits == 0


def test_an_entry_in_use_is_never_evicted(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=ENTRY_BYTES, resident_bytes=0)
    held = fetch(cache)

    other = fetch(cache, key=replace(KEY, epoch=2))

    assert not other.cached and held.cached
    assert np.array_equal(other.rows([5, 40, 41]), true_rows(0, NUM_ROWS)[[5, 40, 41]])
    del held
    assert fetch(cache, key=replace(KEY, epoch=2)).cached


def test_an_entry_used_a_moment_ago_is_protected(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, budget_bytes=ENTRY_BYTES, resident_bytes=0, protect_seconds=60)
    fetch(cache).array()

    other = fetch(cache, key=replace(KEY, epoch=2))

    assert not other.cached
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
    assert not list(tmp_path.glob("evicted-*")) and not list(tmp_path.glob("new-*"))


def test_what_is_larger_than_the_budget_is_computed_without_the_cache(tmp_path: Path) -> None:
    compute = Computer(tmp_path / "log")
    cache = make_cache(tmp_path / "c", budget_bytes=ENTRY_BYTES - 1)

    activations = fetch(cache, compute)

    assert not activations.cached
    assert np.array_equal(activations.rows([20, 4, 5, 21]), true_rows(0, NUM_ROWS)[[20, 4, 5, 21]])
    assert compute.starts() == [4, 20]
    assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
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

    unstored = cache.fetch(KEY, compute=thirds, store=False, **layout).array()

    assert not (tmp_path / "c").exists()
    assert np.array_equal(unstored, cache.fetch(KEY, compute=thirds, **layout).array())


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
        rows = activations.array()
        again = fetch(cache).rows([0, 99])

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert np.array_equal(again, true_rows(0, NUM_ROWS)[[0, 99]])
    assert not activations.cached
    assert len(caplog.records) == 1 and "No space left" in caplog.text


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path[:0] = {paths!r}
from test_activation_cache import NUM_ROWS, ENTRY_BYTES, fetch, make_cache, true_rows
cache = make_cache(Path({root!r}))
activations = fetch(cache)
resource.setrlimit(resource.RLIMIT_FSIZE, (ENTRY_BYTES // 2, ENTRY_BYTES // 2))
assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
assert not activations.cached and 0 < cache.stats().chunks_computed < 13
from dataclasses import replace
from test_activation_cache import KEY
other = fetch(cache, key=replace(KEY, epoch=9))
assert not other.cached and np.array_equal(other.array(), true_rows(0, NUM_ROWS))
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_caching(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = FULL_DISK.format(paths=paths, root=str(tmp_path / "c"))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "cannot write the activation cache" in done.stderr
    assert np.array_equal(fetch(make_cache(tmp_path / "c")).array(), true_rows(0, NUM_ROWS))


def test_a_directory_that_cannot_be_made_ends_caching(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = make_cache(tmp_path / "file" / "cache")

    activations = fetch(cache)

    assert not activations.cached
    assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))


def test_numbers_beyond_half_precision_are_not_cached(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    activations = fetch(cache, lambda start, stop: true_rows(start, stop) + 70_000)

    rows = activations.rows([0, 50])

    assert np.array_equal(rows, true_rows(0, NUM_ROWS)[[0, 50]] + 70_000)
    assert not activations.cached


def test_rows_of_the_wrong_shape_are_a_bug(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path), lambda start, stop: true_rows(start, stop)[:, :2])

    with pytest.raises(ValueError, match=r"rows 0\.\.8 must be float16 \(8, 4, 3\)"):
        activations.rows([0])


def test_a_forked_child_reads_and_computes(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path))
    activations.rows([0])

    child = os.fork()
    if child == 0:
        good = np.array_equal(activations.array(), true_rows(0, NUM_ROWS))
        os._exit(0 if good else 1)
    status = os.waitpid(child, 0)[1]

    assert status == 0
    assert np.array_equal(activations.array(), true_rows(0, NUM_ROWS))


@pytest.mark.slow
def test_importing_the_cache_does_not_import_torch() -> None:
    script = "import sys, trainables.sharing.activation_cache; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=60)

    assert done.returncode == 0
