"""The activation cache among threads and processes: shared work, killed workers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cache_tools import (
    CHUNK_ROWS,
    NUM_CHUNKS,
    NUM_ROWS,
    Computer,
    fetch,
    is_whole,
    make_cache,
    read_all,
    read_shuffled,
    spawn,
    start_hanging,
    true_rows,
)


def test_threads_of_one_process_share_the_work(tmp_path: Path) -> None:
    cache, compute = make_cache(tmp_path / "c"), Computer(tmp_path / "log", seconds=0.01)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(read_all(fetch(cache, compute)))) for _ in range(4)
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
    # Whoever waited for the dead process would still wait when the test's own time is over.
    cache = make_cache(tmp_path / "c", patience_seconds=1e6)

    rows = read_all(fetch(cache))

    assert np.array_equal(rows, true_rows(0, NUM_ROWS))
    assert cache.stats().chunks_computed == NUM_CHUNKS
    assert cache.stats().rows_uncached == 0


@pytest.mark.slow
def test_a_process_that_stands_still_does_not_stop_the_others(tmp_path: Path) -> None:
    process = start_hanging(tmp_path / "c", tmp_path)
    cache = make_cache(tmp_path / "c", patience_seconds=0.2)

    try:
        rows = read_all(fetch(cache))
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

        assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
        assert is_whole(activations)


def test_a_compute_that_raises_leaves_its_chunk_to_the_next(tmp_path: Path) -> None:
    def fail(_start: int, _stop: int) -> np.ndarray:
        raise RuntimeError("out of memory")

    cache = make_cache(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        fetch(cache, fail).rows([0])

    assert np.array_equal(fetch(cache).rows([0]), true_rows(0, 1))


def test_a_forked_child_reads_and_computes(tmp_path: Path) -> None:
    activations = fetch(make_cache(tmp_path))
    activations.rows([0])

    child = os.fork()
    if child == 0:
        good = np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
        os._exit(0 if good else 1)
    status = os.waitpid(child, 0)[1]

    assert status == 0
    assert np.array_equal(read_all(activations), true_rows(0, NUM_ROWS))
