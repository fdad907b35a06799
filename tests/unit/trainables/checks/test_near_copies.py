"""Near copies are found however they were made, and different pictures are not taken for copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_digits, load_sample_images

from trainables.checks.near_copies import find_near_copies

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Windows of scikit-learn's two photographs that have some detail and do not overlap."""
    windows = []
    for picture in load_sample_images().images:
        whole = Image.fromarray(picture)
        corners = [(left, top) for top in range(0, 400, 100) for left in range(0, 600, 120)]
        windows += [whole.crop((left, top, left + 100, top + 100)) for left, top in corners]
    busy = [window for window in windows if np.asarray(window.convert("L")).std() > 30]
    assert len(busy) >= 20
    return [window.resize((128, 128), Image.Resampling.BICUBIC) for window in busy]


def square(image: Image.Image, side: int = 96) -> Pixels:
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def encode(image: Image.Image, name: str, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format=name, quality=quality)
    return Image.open(stream)


CHANGES = {
    "encoded anew": lambda image: encode(image, "JPEG", 40),
    "another format": lambda image: encode(image, "WEBP", 60),
    "half as large": lambda image: image.resize((64, 64)),
    "twice as large": lambda image: image.resize((256, 256)),
    "cropped off-centre": lambda image: image.crop((6, 0, 126, 122)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "of more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
    "mirrored": ImageOps.mirror,
    "all at once": lambda image: encode(
        ImageEnhance.Brightness(image.crop((0, 5, 123, 128)).resize((80, 80))).enhance(0.9), "JPEG", 60
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_beside_its_original(photos: list[Image.Image], change: str) -> None:
    originals = photos[::2]
    images = np.stack([square(image) for image in [*originals, *map(CHANGES[change], originals)]])
    found = {(copy.first, copy.second) for copy in find_near_copies(images, np.arange(len(images)))}
    planted = {(number, number + len(originals)) for number in range(len(originals))}
    assert len(found & planted) >= 0.9 * len(planted)
    assert found <= planted


def test_different_windows_of_a_photo_are_no_copies(photos: list[Image.Image]) -> None:
    images = np.stack([square(image) for image in photos])
    assert find_near_copies(images, np.arange(len(images))) == []


def test_digits_that_look_alike_are_no_copies() -> None:
    digits = (load_digits().images[:600] * 255 / 16).astype(np.uint8)
    images = np.repeat(digits[..., None], 3, axis=3)
    assert find_near_copies(images, np.arange(len(images))) == []


@pytest.mark.parametrize("side", [8, 20, 65])
def test_flat_pictures_are_no_copies_at_any_size(side: int) -> None:
    greys = np.random.default_rng(0).integers(0, 256, (30, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(greys, (30, side, side, 3))
    assert find_near_copies(images, np.arange(30)) == []


def test_noise_pictures_are_no_copies() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 70, 70, 3), dtype=np.uint8)
    assert find_near_copies(images, np.arange(60)) == []


def test_an_object_that_differs_before_the_same_ground_is_no_copy(photos: list[Image.Image]) -> None:
    ground = photos[0]
    scenes = []
    for number in range(12):
        scene = ground.copy()
        scene.paste(photos[4 + number].resize((48, 48)), (40, 40))
        scenes.append(square(scene))
    assert find_near_copies(np.stack(scenes), np.arange(12)) == []


def test_rows_are_those_of_the_store(photos: list[Image.Image]) -> None:
    images = np.stack([square(photos[number]) for number in (0, 5, 9, 5, 13)])
    found = find_near_copies(images, [1, 3, 4])
    assert [(copy.first, copy.second) for copy in found] == [(1, 3)]
    assert found[0].similarity == pytest.approx(1, abs=0.01)


def test_too_few_images_have_no_copies() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    assert find_near_copies(images, []) == find_near_copies(images, [1]) == []
