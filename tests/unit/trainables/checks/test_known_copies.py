"""Near copies of a study's images: found once, remembered beside the store, and cut into one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.checks import known_copies
from trainables.checks.known_copies import find_copies
from trainables.data.datasets import find_images
from trainables.images.cache_room import copies_beside, remove_store
from trainables.images.preparation import prepare_images
from trainables.images.store import ImageStore, open_or_build

COPIED = (0, 7, 12)


def write_photos(folder: Path, *, side: int = 120, number: int = 20) -> list[Path]:
    """Smooth random pictures in two classes; some come a second time, encoded anew and smaller."""
    random = np.random.default_rng(0)
    paths = []
    for n in range(number):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        picture = coarse.resize((side, side), Image.Resampling.BICUBIC)
        paths.append(folder / "ab"[n % 2] / f"{n:02}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        picture.save(paths[-1])
        if n in COPIED:
            paths.append(folder / "ab"[n % 2] / f"{n:02}_again.jpg")
            picture.resize((side * 4 // 5,) * 2, Image.Resampling.LANCZOS).save(paths[-1], quality=70)
    return paths


def open_store(paths: list[Path], cache: Path) -> ImageStore:
    return open_or_build(paths, storage_size=96, fit="crop", cache_dir=cache)


def test_copies_encoded_anew_and_smaller_are_found_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"none")
    store = open_store([tmp_path / "photos" / "a" / "broken.png", *paths], tmp_path)

    found = find_copies(store)

    assert found is not None
    names = [(store_name(paths, a), store_name(paths, b)) for a, b in found]
    assert names == [(f"{n:02}.png", f"{n:02}_again.jpg") for n in COPIED]
    monkeypatch.setattr(known_copies, "find_near_copies", lambda *_, **__: pytest.fail("looked again"))
    assert find_copies(open_store([tmp_path / "photos" / "a" / "broken.png", *paths], tmp_path)) == found
    # Without the broken file the store is the same, and its rows are others.
    assert find_copies(open_store(paths, tmp_path)) == [(a - 1, b - 1) for a, b in found]


def store_name(paths: list[Path], row: int) -> str:
    return paths[row - 1].name


def test_what_is_remembered_goes_with_the_store(tmp_path: Path) -> None:
    store = open_store(write_photos(tmp_path / "photos", number=4), tmp_path)
    find_copies(store)
    path = store.path
    assert path is not None and copies_beside(path).exists()
    del store

    assert remove_store(path)

    assert not copies_beside(path).exists()


def test_pictures_of_few_pixels_are_never_called_copies(tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", side=20)

    assert find_copies(open_store(paths, tmp_path)) == []


def test_among_too_many_images_near_copies_are_not_looked_for_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    monkeypatch.setattr(known_copies, "MOST_IMAGES", 20)

    _, found = prepare_images(
        find_images(str(tmp_path / "photos"), cache_dir=tmp_path),
        fits=["crop"],
        image_size=64,
        cache_dir=tmp_path,
        budget_gb=1.0,
        seed=0,
        refuse_bad=True,
        find_copies=find_copies,
    )

    assert [note.text for note in found.notes] == [
        "among 23 images only equal files are kept together, near copies are not looked for"
    ]


def test_near_copies_are_cut_into_one_split_and_named(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    listing = find_images(str(tmp_path / "photos"), cache_dir=tmp_path)

    for seed in range(8):
        manifest, _ = prepare_images(
            listing,
            fits=["crop"],
            image_size=64,
            cache_dir=tmp_path,
            budget_gb=1.0,
            seed=seed,
            refuse_bad=True,
            find_copies=find_copies,
        )
        at = {path.name: number for number, path in enumerate(manifest.paths)}
        for n in COPIED:
            first, second = at[f"{n:02}.png"], at[f"{n:02}_again.jpg"]
            assert manifest.splits[first] == manifest.splits[second]

    assert manifest.notes[0].text.startswith(
        "6 images that nearly equal another, kept in one split: a/00.png"
    )
