"""One budget for all that lies in the cache folder: image stores, activations, copies of a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cache_tools import ENTRY_BYTES, KEY, fetch, is_cached, read_all
from tests.tiny_data import write_images
from trainables.activations.cache import ActivationCache
from trainables.activations.shared import open_cache
from trainables.data.datasets import copy_missing, find_images
from trainables.images.cache_room import list_items, room_for
from trainables.images.store import ImageStore, open_or_build

SIZE = 12
NUM_IMAGES = 5
STORE_BYTES = 4096 + NUM_IMAGES * SIZE * SIZE * 3


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_store(tmp_path: Path, cache_dir: Path) -> Callable[[float], ImageStore]:
    """Opens the store of a few images within a budget in bytes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 16, 20, 3), dtype=np.uint8)
    paths = [folder / f"{number}.png" for number in range(NUM_IMAGES)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return lambda budget: open_or_build(
        paths, storage_size=SIZE, fit="crop", cache_dir=cache_dir, budget_gb=budget / 1e9
    )


def make_cache(cache_dir: Path, budget: float) -> ActivationCache:
    return ActivationCache(
        cache_dir / "activations",
        budget_bytes=int(budget),
        protect_seconds=0.0,
        resident_bytes=0,
        cache_dir=cache_dir,
    )


def used_bytes(cache_dir: Path) -> int:
    kinds = ("images/*.images", "activations/??/*/data.bin", "datasets/*/**/*.png")
    return sum(path.stat().st_size for kind in kinds for path in cache_dir.glob(kind))


def set_last_use(path: Path, moment: float) -> None:
    os.utime(path, (moment, moment))


def last_used(cache_dir: Path) -> Path:
    return max(cache_dir.glob("activations/??/*/last_used"), key=lambda path: path.stat().st_mtime)


def test_activations_get_what_images_in_use_leave_of_the_budget(
    cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    budget = STORE_BYTES + 1.5 * ENTRY_BYTES
    store = open_store(budget)
    cache = make_cache(cache_dir, budget)

    first = fetch(cache)
    second = fetch(cache, key=replace(KEY, epoch=2))

    assert is_cached(first) and not is_cached(second)
    assert store.path is not None and store.path.exists()
    assert used_bytes(cache_dir) <= budget


def test_images_that_nobody_uses_make_room_for_activations(
    cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    path = open_store(STORE_BYTES).path
    assert path is not None

    activations = fetch(make_cache(cache_dir, STORE_BYTES))

    assert is_cached(activations)
    assert not path.exists()


def test_activations_that_nobody_uses_make_room_for_images(
    cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    read_all(fetch(make_cache(cache_dir, STORE_BYTES)))

    store = open_store(STORE_BYTES)

    assert store.path is not None
    assert not list(cache_dir.glob("activations/??/*"))


def test_activations_in_use_leave_no_room_for_images_which_are_decoded_at_use(
    cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    held = fetch(make_cache(cache_dir, STORE_BYTES))

    store = open_store(STORE_BYTES)

    assert is_cached(held)
    assert store.path is None
    assert store.take(np.array([0])).shape == (1, SIZE, SIZE, 3)


def test_what_was_used_longest_ago_goes_first_whatever_it_is(
    cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    budget = STORE_BYTES + 2 * ENTRY_BYTES
    cache = make_cache(cache_dir, budget)
    read_all(fetch(cache, key=replace(KEY, epoch=1)))
    set_last_use(last_used(cache_dir), 300)
    store = open_store(budget).path
    assert store is not None
    set_last_use(store, 100)
    read_all(fetch(cache, key=replace(KEY, epoch=2)))
    set_last_use(last_used(cache_dir), 200)

    read_all(fetch(cache, key=replace(KEY, epoch=3)))

    assert not store.exists()
    assert len(list(cache_dir.glob("activations/??/*"))) == 3


def test_a_store_that_is_being_written_counts_with_all_it_will_take(
    cache_dir: Path, open_store: Callable[[float], ImageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(cache_dir, STORE_BYTES + ENTRY_BYTES / 2)
    cached: list[bool] = []
    decode = sys.modules["trainables.images.store"].decode_files

    def decode_and_look(*arguments: object) -> object:
        cached.append(is_cached(fetch(cache)))
        return decode(*arguments)

    monkeypatch.setattr("trainables.images.store.decode_files", decode_and_look)

    store = open_store(STORE_BYTES + ENTRY_BYTES / 2)

    assert cached == [False]
    assert store.path is not None


def test_a_study_s_cache_counts_images_and_copies(tmp_path: Path) -> None:
    cache = open_cache(str(tmp_path), 1.0)

    assert cache is not None
    assert cache._cache_dir == tmp_path


COPY = """
import sys
from pathlib import Path
from trainables.data.datasets import copy_missing, find_images
url, cache_dir = sys.argv[1], Path(sys.argv[2])
copy_missing(url, find_images(url, cache_dir=cache_dir).paths, cache_dir=cache_dir)
print("copied", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """A folder under a URL, which is copied as a bucket is."""
    return write_images(tmp_path / "bucket", images_per_class=4).as_uri()


@pytest.mark.slow
def test_copies_of_a_bucket_go_when_no_process_uses_them_and_are_made_again(
    bucket: str, cache_dir: Path, open_store: Callable[[float], ImageStore]
) -> None:
    words = [sys.executable, "-c", COPY, bucket, str(cache_dir)]
    bucket_bytes = sum(path.stat().st_size for path in Path(bucket.removeprefix("file://")).rglob("*.png"))
    root = Path(__file__).parents[4]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "copied\n"
        (copies,) = [item for item in list_items(cache_dir) if "datasets" in item.path.parts]
        in_use = open_store(STORE_BYTES)
        other.communicate("\n")

    unused = open_store(STORE_BYTES)

    assert copies.num_bytes == bucket_bytes > STORE_BYTES
    assert in_use.path is None
    assert unused.path is not None
    assert not copies.path.exists()
    listing = find_images(bucket, cache_dir=cache_dir)
    copy_missing(bucket, listing.paths, cache_dir=cache_dir)
    assert all(path.is_file() for path in listing.paths)


def test_a_bucket_that_does_not_fit_the_budget_is_refused_with_the_way_out(
    bucket: str, cache_dir: Path
) -> None:
    paths = find_images(bucket, cache_dir=cache_dir).paths  # of which a sample is copied: here, all
    for path in paths:
        path.unlink()
    room = partial(room_for, cache_dir=cache_dir, budget_gb=1e-6)

    with pytest.raises(
        OSError, match=r"no room for .* GB of images within its budget: pass a larger --cache-gb"
    ):
        copy_missing(bucket, paths, cache_dir=cache_dir, room_for=room)

    assert not any(path.exists() for path in paths)
