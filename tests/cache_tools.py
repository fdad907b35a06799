"""What the tests of the activation cache share: true rows, counted work, workers that die."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.activations.cache import ActivationCache, ActivationKey
from trainables.activations.rows import Activations

NUM_ROWS, ROW_SHAPE, CHUNK_ROWS = 100, (4, 3), 8
NUM_CHUNKS = 13
ENTRY_BYTES = NUM_ROWS * 12 * 2
KEY = ActivationKey(
    data="d1",
    backbone="lite0",
    weights="w1",
    depth=1,
    image_size=128,
    fit="crop",
    policy="flip",
    epoch=1,
    computed_by="cpu, float32",
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


def read_all(activations: Activations, num_rows: int = NUM_ROWS) -> np.ndarray:
    return activations.rows(np.arange(num_rows))


def is_cached(activations: Activations) -> bool:
    """Whether the rows have an entry in the cache that has not been given up."""
    return activations._entry is not None and not activations._entry.given_up


def is_whole(activations: Activations) -> bool:
    """Whether this process has written or checked every chunk of the entry."""
    return activations._entry is not None and activations._entry.whole


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
        assert np.array_equal(read_all(fetch(cache, key=key)), true_rows(0, NUM_ROWS))


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
