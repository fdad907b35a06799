"""Odd pictures are named by kind, usual ones are not, and a class that is dark as a whole is not odd."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from trainables.checks.quality import find_odd_pictures, measure_images
from trainables.images.decoding import ImageFact

NUM, SIDE = 60, 48


def make_images() -> NDArray[np.uint8]:
    """Sixty pictures of smooth noise, each a little brighter, sharper or flatter than the other."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(NUM):
        noise = Image.fromarray(random.integers(0, 256, (SIDE // 4, SIDE // 4, 3)).astype(np.uint8))
        smooth = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.float64)
        grain = random.normal(0, 3, smooth.shape)
        pictures.append(smooth * random.uniform(0.8, 1) + random.uniform(0, 30) + grain)
    return np.clip(pictures, 0, 255).astype(np.uint8)


def make_facts(sizes: dict[int, tuple[int, int]], *, bad: tuple[int, ...] = ()) -> list[ImageFact]:
    return [
        ImageFact(number not in bad, "", *((0, 0) if number in bad else sizes.get(number, (400, 300))), "")
        for number in range(NUM)
    ]


def find(
    images: NDArray[np.uint8],
    sizes: dict[int, tuple[int, int]] | None = None,
    *,
    bad: tuple[int, ...] = (),
    labels: NDArray[np.int64] | None = None,
) -> set[tuple[int, str]]:
    measures = measure_images(images, make_facts(sizes or {}, bad=bad))
    found = find_odd_pictures(measures, np.zeros(NUM, np.int64) if labels is None else labels)
    return {(one.image, one.kind) for one in found}


def change(pixels: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    values = pixels.astype(np.float64)
    if kind == "blurred":
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(8)))
    changed = {
        "blank": np.full_like(values, 130),
        "dark": values * 0.1,
        "bright": 215 + values * 0.15,
        "flat": 120 + (values - 128) * 0.06,
        "grainy": values + np.random.default_rng(1).normal(0, 90, values.shape),
    }[kind]
    return np.clip(changed, 0, 255).astype(np.uint8)


def test_nothing_is_odd_among_usual_pictures() -> None:
    assert find(make_images()) == set()


@pytest.mark.parametrize("kind", ["blank", "dark", "bright", "flat", "blurred", "grainy"])
def test_a_picture_that_was_spoilt_is_named_by_its_kind(kind: str) -> None:
    images = make_images()
    images[7] = change(images[7], kind)

    found = find(images)

    assert (7, kind) in found
    assert {image for image, _ in found} == {7}


def test_a_small_file_and_one_of_another_shape_are_named() -> None:
    assert find(make_images(), {3: (40, 30), 4: (1600, 200)}) == {(3, "small"), (4, "shape")}


def test_portrait_and_landscape_are_the_same_shape() -> None:
    assert find(make_images(), dict.fromkeys(range(10), (300, 400))) == set()


def test_a_class_that_is_dark_as_a_whole_is_not_odd() -> None:
    images = make_images()
    images[:25] = (images[:25] * 0.2).astype(np.uint8)
    night = np.where(np.arange(NUM) < 25, 0, 1)

    assert find(images, labels=night) == set()


def test_images_that_cannot_be_read_are_passed_over() -> None:
    images = make_images()
    images[5] = 0

    assert find(images, bad=(5,)) == set()
    assert find(np.zeros_like(images), bad=tuple(range(NUM))) == set()
