"""One scale for all images of more than 8 bits of a data set, and the sizes that a sample shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.decoding import DeepRange, decode
from trainables.images.survey import find_deep_range, measure_deep_range, sample_sizes

RANDOM = np.random.default_rng(0)


def write(folder: Path, *images: Any, suffix: str = "tiff") -> list[Path]:
    paths = [folder / f"{number}.{suffix}" for number in range(len(images))]
    for path, values in zip(paths, images, strict=True):
        Image.fromarray(values).save(path)
    return paths


def values(low: float, high: float, kind: Any, shape: tuple[int, int] = (60, 80)) -> Any:
    return (low + (high - low) * RANDOM.random(shape)).astype(kind)


CASES: dict[str, tuple[Callable[[], list[Any]], tuple[float, float] | None, tuple[float, float] | None]] = {
    "12 bits in 16": (lambda: [values(0, 4096, np.uint16)] * 9, (0, 4095), None),
    "16 bits": (lambda: [values(0, 65536, np.uint16)] * 9, (0, 65535), None),
    "8 bits in a type of 32": (lambda: [values(0, 200, np.int32)] * 9, (0, 255), None),
    "8 bits in a type of 16": (lambda: [values(0, 90, np.uint16)] * 9, (0, 255), None),
    "tomography": (lambda: [values(-1024, 3072, np.int32)] * 9, (-1024, 3071), None),
    "temperatures": (lambda: [values(29_000, 31_000, np.uint16)] * 9, (29_000, 31_000), None),
    "shares": (lambda: [values(0, 1, np.float32)] * 9, None, (0, 1)),
    "dark shares": (lambda: [values(0, 0.06, np.float32)] * 9, None, (0, 0.06)),
    "8 bits as numbers with a point": (
        lambda: [values(0, 250, np.uint8).astype(np.float32)] * 9,
        None,
        (0, 255),
    ),
    "degrees": (lambda: [values(-10, 40, np.float32)] * 9, None, (-10, 40)),
    "two kinds": (
        lambda: [values(0, 4096, np.uint16)] * 5 + [values(0, 1, np.float32)] * 5,
        (0, 4095),
        (0, 1),
    ),
    "one value": (lambda: [np.full((9, 9), 700, np.uint16)], (0, 700), None),
}


@pytest.mark.parametrize("name", CASES)
def test_black_and_white_are_those_of_the_data_set(name: str, tmp_path: Path) -> None:
    images, whole, other = CASES[name]

    found = find_deep_range(write(tmp_path, *images()))

    assert found is not None
    full = DeepRange()
    expected = (*(whole or (full.black, full.white)), *(other or (full.float_black, full.float_white)))
    spread = max(1.0, expected[1] - expected[0]), expected[3] - expected[2]
    measured = (found.black, found.white, found.float_black, found.float_white)
    for one, other_one, size in zip(measured, expected, (spread[0],) * 2 + (spread[1],) * 2, strict=True):
        assert abs(one - other_one) <= 0.005 * size


def test_a_dark_and_a_bright_image_keep_their_difference(tmp_path: Path) -> None:
    paths = write(tmp_path, np.full((20, 20), 400, np.uint16), values(0, 4096, np.uint16))

    deep = find_deep_range(paths)

    assert deep is not None
    assert abs(int(decode(paths[0], deep=deep)[0, 0, 0]) - round(400 / 4095 * 255)) <= 1
    assert np.ptp(decode(paths[1], deep=deep)) == 255


def test_a_few_hot_pixels_do_not_make_all_others_dark(tmp_path: Path) -> None:
    images = [values(0, 1000, np.uint16) for _ in range(20)]
    for image in images:
        image[0, 0] = 65535

    found = measure_deep_range(write(tmp_path, *images))

    assert 900 < found.white <= 1000


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_counts_for_nothing(hole: float, tmp_path: Path) -> None:
    images = [values(0, 1, np.float32) for _ in range(4)]
    for image in images:
        image[::2] = hole

    found = measure_deep_range([*write(tmp_path, *images, np.full((9, 9), hole, np.float32))])

    assert (found.float_black, found.float_white) == (0, 1)


def test_images_of_8_bits_and_damaged_ones_say_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path, values(0, 255, np.uint8), suffix="png")
    (tmp_path / "damaged.tiff").write_bytes(b"II*\0junk")
    os.mkfifo(tmp_path / "pipe.tiff")

    assert find_deep_range([*paths, tmp_path / "damaged.tiff", tmp_path / "pipe.tiff"]) is None


def test_photos_are_not_even_opened_to_look_for_more_bits(tmp_path: Path) -> None:
    deep = write(tmp_path, values(0, 4096, np.uint16), suffix="png")[0]
    deep.rename(tmp_path / "photo.jpg")

    assert find_deep_range([tmp_path / "photo.jpg"]) is None
    assert find_deep_range([tmp_path / "missing.jpeg"] * 10_000) is None


def test_sizes_are_the_medians_of_what_can_be_read(tmp_path: Path) -> None:
    paths = write(tmp_path, *[np.zeros((10, 40), np.uint8)] * 3, np.zeros((30, 10), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")

    found = sample_sizes([*paths, tmp_path / "text.png", tmp_path / "pipe.png"])

    assert (found.median_pixels, found.median_aspect) == (400, 4.0)


def test_no_readable_image_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")

    with pytest.raises(ValueError, match=r"none of the images can be read, .*text\.png for one"):
        sample_sizes([tmp_path / "text.png"])
