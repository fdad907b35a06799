"""What a study says of odd images before its search, and one scale for all of its deep ones."""

from __future__ import annotations

import io
import os
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contract.decoding import FULL_RANGE, DeepRange, Fit, Remark
from contract.messages import StudySettings
from tests.tiny_data import make_settings, write_images
from trainables.activations.shared import load_splits
from trainables.data.datasets import find_images, take_sample
from trainables.data.manifest import Manifest
from trainables.images.decoding import ImageFact
from trainables.images.preparation import Preparation, describe_odd, note_shape, prepare_images
from trainables.images.store import open_or_build

RANDOM = np.random.default_rng(0)


def prepare(folder: Path, cache: Path, *, fits: tuple[Fit, ...] = ("crop",)) -> tuple[Manifest, Preparation]:
    return prepare_images(
        find_images(str(folder), cache_dir=cache),
        fits=fits,
        image_size=16,
        cache_dir=cache,
        budget_gb=1.0,
        seed=0,
        refuse_bad=False,
    )


def write_deep(folder: Path, *, number: int = 8, highest: int = 4096) -> Path:
    """Noise of more than 8 bits, in two classes."""
    for name in ("dim", "bright"):
        (folder / name).mkdir(parents=True)
        for image in range(number):
            top = highest // 4 if name == "dim" else highest
            pixels = RANDOM.integers(0, top, (20, 20)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / name / f"{image}.png")
    return folder


def test_ordinary_images_have_no_remarks_and_no_range(tmp_path: Path) -> None:
    _, found = prepare(write_images(tmp_path / "images"), tmp_path / "cache")

    assert found == Preparation()
    assert found.complaints == []


def test_values_of_twelve_bits_use_all_of_the_eight(tmp_path: Path) -> None:
    manifest, found = prepare(write_deep(tmp_path / "images"), tmp_path / "cache")

    deep = DeepRange(*found.deep_range)
    store = open_or_build(
        manifest.paths, storage_size=18, fit="crop", deep=deep, cache_dir=tmp_path / "cache"
    )
    assert 4050 < deep.white < 4096 and deep.black == 0
    dim, bright = (store.take(np.flatnonzero(manifest.labels == label)) for label in (1, 0))
    assert 55 < dim.max() < 80  # a quarter, as in the files: an image's own range decides nothing
    assert bright.max() > 245
    assert any(
        "16 of 16 images have more than 8 bits: black to white is 0 to 40" in note.text
        for note in found.notes
    )


def test_a_few_deep_images_among_many_others_are_found_after_all(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", images_per_class=100, side=4)
    late = [folder / "blue" / f"{number}.png" for number in ("00x", "05x")]
    for path in late:
        Image.fromarray(RANDOM.integers(0, 4096, (20, 20)).astype(np.uint16)).save(path)
    assert not {*late} & {*take_sample(find_images(str(folder), cache_dir=tmp_path / "cache").paths)}

    _, found = prepare(folder, tmp_path / "cache")
    _, again = prepare(folder, tmp_path / "cache")

    assert found.deep_range[1] < 4096
    assert found == again


def test_stores_of_two_ranges_are_two(tmp_path: Path) -> None:
    folder = write_deep(tmp_path / "images")
    paths = sorted(folder.rglob("*.png"))
    stores = [
        open_or_build(paths, storage_size=18, fit="crop", deep=deep, cache_dir=tmp_path / "cache")
        for deep in (FULL_RANGE, DeepRange(0, 4095), DeepRange(0, 4095), DeepRange(0, 1000))
    ]

    assert len({store.key for store in stores}) == 3
    assert stores[1].path == stores[2].path
    assert stores[0].images[0].max() < 24 < 245 < stores[1].images[0].max()


def test_without_room_deep_images_are_decoded_in_the_same_range(tmp_path: Path) -> None:
    paths = sorted(write_deep(tmp_path / "images").rglob("*.png"))
    options: dict[str, Any] = {"storage_size": 18, "fit": "pad", "deep": DeepRange(0, 4095)}

    kept = open_or_build(paths, cache_dir=tmp_path / "a", **options)
    at_use = open_or_build(paths, cache_dir=tmp_path / "b", budget_gb=0.0, **options)

    rows = np.arange(len(paths))
    assert at_use.path is None
    np.testing.assert_array_equal(kept.take(rows), at_use.take(rows))


def test_workers_take_the_range_from_the_settings_and_keep_its_activations_apart(tmp_path: Path) -> None:
    plain = make_settings(tmp_path, source=write_deep(tmp_path / "deep"), fits=("crop",))
    _, found = prepare(tmp_path / "deep", tmp_path / "cache")
    deep = StudySettings.from_values(plain.as_values() | {"deep_range": list(found.deep_range)})

    one, other = (load_splits(settings, "crop", torch.device("cpu"))["train"] for settings in (plain, deep))

    assert one.digest != other.digest
    assert one.store.take(one.ids).max() < 24
    assert other.store.take(other.ids).max() > 245


def test_odd_files_are_said_once_with_their_counts(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("blue", "red")]
    frames[0].save(folder / "blue" / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "blue" / "pages.tiff", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (20, 20), (0, 0, 255, 9)).save(folder / "blue" / "clear.png")
    Image.new("RGB", (2, 2)).save(folder / "blue" / "tiny.png")
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "blue").save(buffer, "JPEG")
    (folder / "blue" / "cut.jpg").write_bytes(buffer.getvalue()[:-2])
    (folder / "blue" / "half.jpg").write_bytes(buffer.getvalue()[:300])

    _, found = prepare(folder, tmp_path / "cache")
    _, again = prepare(folder, tmp_path / "cache")  # from the index

    text = "\n".join(note.text for note in found.notes)
    assert len(found.notes) == 4
    assert "2 of 42 images hold several pictures: the first is used" in text and "moving.gif, …" in text
    assert "1 of 42 images are transparent in places" in text and "clear.png)" in text
    assert "1 of 42 images lack the end of their file, but nothing of the picture" in text
    assert "1 of 42 images are less than 4 px wide or high" in text
    assert "half.jpg" in found.left_out and not found.complaints[1:]
    assert found == again


def test_more_than_a_few_per_cent_left_out_is_warned_of(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    for number in range(3):
        (folder / "red" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0")

    _, found = prepare(folder, tmp_path / "cache")

    assert found.left_out.startswith("3 of 39 images cannot be read")
    assert found.complaints[0] == f"skipping {found.left_out}"
    assert found.complaints[1].startswith("WARNING: 8% of the images cannot be read")


@pytest.mark.timeout(60)
def test_a_pipe_among_the_images_is_left_out_by_name(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    os.mkfifo(folder / "red" / "pipe.jpg")
    paths = sorted(folder.rglob("*.*"))

    facts = open_or_build(paths, storage_size=18, fit="crop", cache_dir=tmp_path / "cache").facts

    assert [fact.reason for fact in facts if not fact.ok] == ["not a regular file"]


def test_large_images_are_remarked() -> None:
    fact = ImageFact(ok=True, reason="", width=20_000, height=10_000, digest="1")
    other = ImageFact(ok=True, reason="", width=20, height=10, digest="2", remarks=(Remark.CLEANED,))

    notes = describe_odd([Path("a.jpg"), Path("b.jpg")], [fact, other])

    assert [note.text for note in notes] == [
        "1 of 2 images can only be read without the metadata of their file, and are used so (b.jpg)",
        "1 of 2 images have more than 64 megapixels (a.jpg)",
    ]


@pytest.mark.parametrize(
    ("aspect", "fits", "is_warned"),
    [(1.5, ["crop"], False), (2.0, ["crop"], False), (4.0, ["crop", "squash"], True), (4.0, ["pad"], False)],
)
def test_long_images_that_are_cropped_are_warned_of(aspect: float, fits: list[Fit], is_warned: bool) -> None:
    notes = note_shape(aspect, fits)

    assert bool(notes) == is_warned
    assert all("25% of it" in note.text and "--fit pad" in note.text for note in notes)


def test_a_range_survives_the_way_to_a_worker() -> None:
    deep = DeepRange(-5, 4095, 0.5, 2.5)

    assert DeepRange(*astuple(deep)) == deep
