"""The images of a study as the report sees them: near-duplicates, thumbnails, broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from analysis.image_table import ImageTable, load_image_table
from analysis.report.image_sections import (
    find_near_duplicates,
    look_at,
    make_thumbnail,
)


def write_images(folder: Path, num: int) -> list[Path]:
    """Blurred noise, which differs from image to image the way photos do."""
    paths = []
    for number in range(num):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def make_table(paths: list[Path]) -> ImageTable:
    splits, numbers = np.array(["train"] * len(paths)), np.arange(len(paths))
    return ImageTable(tuple(paths), np.zeros(len(paths), np.int64), splits, numbers)


def test_a_resized_recompressed_copy_is_a_near_duplicate_and_others_are_not(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 12)
    with Image.open(paths[3]) as image:
        image.resize((50, 40)).save(tmp_path / "copy.jpg", quality=80)
    table = make_table([*paths, tmp_path / "copy.jpg"])

    pairs = find_near_duplicates(look_at(table, range(len(table))))

    assert pairs == [(3, 12)]


def test_plain_images_are_not_all_the_same(tmp_path: Path) -> None:
    paths = []
    for number, grey in enumerate((10, 100, 250)):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (40, 40), (grey, grey, grey)).save(paths[-1])
    table = make_table(paths)

    assert find_near_duplicates(look_at(table, range(3))) == []


def test_broken_and_missing_files_are_named_not_raised(tmp_path: Path) -> None:
    paths = [*write_images(tmp_path, 1), tmp_path / "gone.jpg", tmp_path / "broken.jpg"]
    paths[2].write_bytes(b"\xff\xd8\xff no image")

    looks = look_at(make_table(paths), range(3))

    assert looks.ids.tolist() == [0]
    assert looks.unreadable == (1, 2)
    assert make_thumbnail(paths[1]) is None
    assert str(make_thumbnail(paths[0])).startswith("data:image/jpeg;base64,")


def test_a_study_without_data_has_an_empty_table(tmp_path: Path) -> None:
    assert len(load_image_table(tmp_path)) == 0
