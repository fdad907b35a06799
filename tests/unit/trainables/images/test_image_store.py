"""The image store: built once, whole or not at all, and checked when it is opened."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.images import store as image_store
from trainables.images.decoding import decode_files
from trainables.images.store import ImageStore, open_or_build

SIZE = 12
STORE_BYTES = 4096 + 40 * SIZE * SIZE * 3


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 20, 3), dtype=np.uint8)
    paths = [folder / f"{number:02d}.png" for number in range(40)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def open_store(photos: list[Path], **options: object) -> ImageStore:
    settings = {"storage_size": SIZE, "fit": "crop", "cache_dir": photos[0].parents[1] / "cache", **options}
    return open_or_build(photos, **settings)  # type: ignore[arg-type]


def expected_pixels(photos: list[Path]) -> np.ndarray:
    return decode_files(photos, SIZE, "crop")[0]


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_store, "decode_files", refuse)


def test_a_store_holds_every_image_read_only(photos: list[Path]) -> None:
    seen: list[tuple[int, int]] = []

    store = open_store(photos, progress=lambda done, total: seen.append((done, total)))

    assert isinstance(store.images, np.memmap) and not store.images.flags.writeable
    assert np.array_equal(store.images, expected_pixels(photos))
    assert all(fact.ok and (fact.width, fact.height) == (20, 16) for fact in store.facts)
    assert seen == [(32, 40), (40, 40)]


def test_a_batch_is_a_copy_in_the_order_asked_for(photos: list[Path]) -> None:
    store = open_store(photos)

    batch = store.take(np.array([5, 39, 5, 0]))

    assert np.array_equal(batch, expected_pixels(photos)[[5, 39, 5, 0]])
    assert batch.flags.writeable and batch.flags.c_contiguous


def test_a_second_opening_decodes_nothing(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(photos)
    forbid_decoding(monkeypatch)

    second = open_store(photos)

    assert second.path == first.path and second.facts == first.facts


def test_the_same_contents_elsewhere_share_the_store(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store(photos)
    shutil.copytree(photos[0].parent, tmp_path / "copy")
    moved = [tmp_path / "copy" / path.name for path in photos]
    forbid_decoding(monkeypatch)

    second = open_store(moved)

    assert second.path == first.path


def test_a_changed_image_another_size_and_another_fit_are_other_stores(photos: list[Path]) -> None:
    keys = {
        open_store(photos).key,
        open_store(photos, storage_size=8).key,
        open_store(photos, fit="squash").key,
    }
    Image.new("RGB", (20, 16)).save(photos[3])

    changed = open_store(photos)

    assert len(keys | {changed.key}) == 4
    assert not changed.images[3].any()


def test_unreadable_images_are_named_and_their_rows_are_zero(photos: list[Path]) -> None:
    photos[0].write_bytes(b"no image")
    photos[7].unlink()
    photos[20].write_bytes(photos[20].read_bytes()[:300])

    for _ in range(2):
        store = open_store(photos)
        assert np.flatnonzero(~store.readable).tolist() == [0, 7, 20]
        assert store.images.shape == (40, SIZE, SIZE, 3) and len(store.images) == 40
        assert np.array_equal(store.take(np.arange(40)), expected_pixels(photos))
        assert not store.images[7].any()
        assert np.array_equal(store.images[8], expected_pixels([photos[8]])[0])


def test_without_the_unreadable_images_the_store_is_the_same(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos[7].write_bytes(b"no image")
    first = open_store(photos)
    forbid_decoding(monkeypatch)

    second = open_store([path for path in photos if path != photos[7]])

    assert second.path == first.path
    assert isinstance(second.images, np.memmap) and len(second.images) == 39


def test_a_folder_of_unreadable_images_gives_an_empty_store(photos: list[Path]) -> None:
    for path in photos:
        path.write_bytes(path.name.encode())

    store = open_store(photos)

    assert not store.readable.any()
    assert not store.take(np.arange(40)).any()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 10)


def overwrite_pixels(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 + 100)
        file.write(b"something else")


@pytest.mark.parametrize("damage", [truncate, overwrite_header, overwrite_pixels, Path.unlink])
def test_a_damaged_store_is_found_and_built_anew(photos: list[Path], damage: object) -> None:
    path = open_store(photos).path
    assert path is not None
    damage(path)  # type: ignore[operator]

    store = open_store(photos)

    assert store.path == path
    assert np.array_equal(store.images, expected_pixels(photos))


def test_a_damaged_index_costs_time_only(photos: list[Path]) -> None:
    first = open_store(photos)
    (photos[0].parents[1] / "cache" / "images" / "index.db").write_bytes(b"no database" * 1000)

    second = open_store(photos)

    assert second.key == first.key


def test_without_a_budget_for_it_images_are_decoded_at_use(
    photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store = open_store(photos, budget_gb=STORE_BYTES / 2e9)

    assert store.path is None
    assert np.array_equal(store.take(np.array([3, 1])), expected_pixels(photos)[[3, 1]])
    assert np.array_equal(store.images[2], expected_pixels(photos)[2])
    assert store.images.shape == (40, SIZE, SIZE, 3) and len(store.images) == 40
    assert store.readable.all()
    assert [record.message.startswith("no room for") for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("fault", "what"), [("deleted", "cannot be read any more"), ("replaced", "has changed")]
)
def test_an_image_that_is_no_longer_what_it_was_is_named_and_not_taken_for_a_black_one(
    photos: list[Path], fault: str, what: str
) -> None:
    store = open_store(photos, budget_gb=STORE_BYTES / 2e9)
    photos[3].unlink()
    if fault == "replaced":
        photos[3].write_bytes(photos[4].read_bytes())

    with pytest.raises(OSError, match=rf"{photos[3].name} {what}"):
        store.take(np.array([2, 3]))
    assert np.array_equal(store.take(np.array([2])), expected_pixels([photos[2]]))


def test_the_store_used_longest_ago_makes_room_unless_it_is_in_use(photos: list[Path]) -> None:
    budget = 2.5 * STORE_BYTES / 1e9
    oldest = open_store(photos, budget_gb=budget, fit="squash")
    in_between = open_store(photos[::-1], budget_gb=budget)
    oldest_path, path_in_between = oldest.path, in_between.path
    assert oldest_path and path_in_between
    os.utime(oldest_path, (1, 1))
    os.utime(path_in_between, (2, 2))
    del in_between

    newest = open_store(photos, budget_gb=budget)

    assert newest.path and newest.path.exists()
    assert oldest_path.exists()  # still held open
    assert not path_in_between.exists()


def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_nothing(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_store, "write_at", refuse)

    with pytest.raises(
        OSError, match=r"the disk filled up while the image store was written.*free some space"
    ):
        open_store(photos)

    left = {path.suffix for path in (photos[0].parents[1] / "cache" / "images").iterdir()}
    assert left <= {".lock", ".db"}


PROGRAM = """
import sys, time
from pathlib import Path
from trainables.images import store as image_store
decode = image_store.decode_files
def decode_slowly(*arguments):
    print("decoding", flush=True)
    time.sleep(float(sys.argv[2]))
    return decode(*arguments)
image_store.decode_files = decode_slowly
folder = Path(sys.argv[1])
photos = sorted((folder / "photos").iterdir())
store = image_store.open_or_build(photos, storage_size=12, fit="crop", cache_dir=folder / "cache", workers=1)
print("built", store.key, flush=True)
"""


def start_building(folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_store(photos: list[Path], tmp_path: Path) -> None:
    builder = start_building(tmp_path, pause=30)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "decoding\n"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    images = tmp_path / "cache" / "images"
    assert list(images.glob("*.partial")) and not list(images.glob("*.images"))

    open_store(photos, storage_size=8)  # another store: removes what was abandoned
    assert not list(images.glob("*.partial"))
    store = open_store(photos)

    assert np.array_equal(store.images, expected_pixels(photos))


def test_processes_that_ask_at_once_build_once(photos: list[Path], tmp_path: Path) -> None:
    builders = [start_building(tmp_path, pause=0.2) for _ in range(2)]

    outputs = [builder.communicate(timeout=60)[0].splitlines() for builder in builders]

    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(output.count("decoding") for output in outputs) == [0, 2]
    assert len(photos) == 40


@pytest.mark.slow
def test_thousands_of_known_photos_open_with_one_look_at_each(tmp_path: Path) -> None:
    root = Path(os.environ.get("UNFREEZE_DATA", Path(__file__).parents[5] / "shared" / "data"))
    photos = sorted((root / "flowers5").rglob("*.jpg"))
    if not photos:
        pytest.skip("no photos: set UNFREEZE_DATA")
    store = open_or_build(photos, storage_size=16, fit="crop", cache_dir=tmp_path)
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls[argument.__name__ if event == "c_call" else frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        again = open_or_build(photos, storage_size=16, fit="crop", cache_dir=tmp_path)
    finally:
        sys.setprofile(None)

    assert again.path == store.path and store.readable.all()
    assert len(photos) <= calls["stat"] < len(photos) + 20
    assert calls["open"] < 20
    assert calls.total() < 20 * len(photos), calls.most_common(20)


def test_a_store_removed_between_its_opening_and_its_lock_is_made_again(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store(photos)
    assert first.path is not None
    path, expected = first.path, first.take(np.arange(len(photos)))
    del first
    lock = fcntl.flock
    removed = []

    def remove_first(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH and not removed:
            removed.append(path)
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr("contract.files.fcntl.flock", remove_first)

    again = open_store(photos)

    assert removed == [path]
    assert path.exists()
    assert np.array_equal(again.take(np.arange(len(photos))), expected)
