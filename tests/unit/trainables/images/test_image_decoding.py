"""Decoding of every kind of image file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.decoding import Fit, Pixels, decode_square
from trainables.images.decoding import decode_files

RED = (200, 30, 40)


def decode_image(content: bytes, size: int, fit: Fit) -> tuple[Pixels, int, int]:
    square = decode_square(content, size=size, fit=fit)
    return square.pixels, square.width, square.height


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_palette() -> Image.Image:
    palette = Image.new("P", (12, 8), 0)
    palette.putpalette([0, 0, 0, *RED])
    palette.paste(1, (0, 0, 12, 8))
    return palette


def make_deep(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 12), value, dtype=np.uint16))


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (encode(Image.new("RGB", (12, 8), RED)), RED),
        (encode(Image.new("RGB", (12, 8), RED), "JPEG", quality=95), RED),
        (encode(Image.new("L", (12, 8), 90)), (90, 90, 90)),
        (encode(Image.new("L", (12, 8), 90), "JPEG"), (90, 90, 90)),
        (encode(Image.new("1", (12, 8), 1)), (255, 255, 255)),
        (encode(Image.new("RGBA", (12, 8), (*RED, 255))), RED),
        (encode(Image.new("RGBA", (12, 8), (*RED, 0))), (255, 255, 255)),
        (encode(Image.new("LA", (12, 8), (0, 128))), (127, 127, 127)),
        (encode(make_palette()), RED),
        (encode(make_palette(), transparency=1), (255, 255, 255)),
        (encode(make_palette(), "GIF"), RED),
        (encode(make_deep(40_000)), (156, 156, 156)),
        (encode(make_deep(40_000), "TIFF"), (156, 156, 156)),
        (encode(Image.new("F", (12, 8), 0.5), "TIFF"), (128, 128, 128)),
        (encode(Image.new("CMYK", (12, 8), (0, 255, 255, 0)), "JPEG", quality=95), (254, 0, 0)),
        (encode(Image.new("RGB", (12, 8), RED), "WEBP", lossless=True), RED),
        (encode(Image.new("RGB", (12, 8), RED), "BMP"), RED),
    ],
)
def test_every_mode_becomes_rgb_with_white_behind_transparency(
    content: bytes, colour: tuple[int, int, int]
) -> None:
    pixels, width, height = decode_image(content, 6, "crop")

    assert (width, height) == (12, 8)
    assert pixels.shape == (6, 6, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_crop_keeps_the_middle_and_squash_keeps_everything() -> None:
    image = Image.new("RGB", (30, 10), (0, 0, 255))
    image.paste((255, 0, 0), (10, 0, 20, 10))

    crop, _, _ = decode_image(encode(image), 10, "crop")
    squash, _, _ = decode_image(encode(image), 10, "squash")

    assert (crop == (255, 0, 0)).all()
    assert (squash[:, 0] == (0, 0, 255)).all() and (squash[:, 5] == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_a_camera_wrote_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (40, 20), (255, 255, 255))
    upright.paste((0, 0, 0), (0, 0, 20, 10))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    pixels, width, height = decode_image(encode(stored, "JPEG", quality=95, exif=exif), 20, "squash")

    assert (width, height) == (40, 20)
    assert pixels[:8, :8].max() < 30
    assert pixels[12:].min() > 225 and pixels[:, 12:].min() > 225


def test_a_large_jpeg_decoded_at_a_fraction_looks_like_the_whole_one() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC)

    pixels, width, height = decode_image(encode(photo, "JPEG", quality=95), 60, "crop")

    expected = photo.resize((60, 60), Image.Resampling.BICUBIC, box=(200, 0, 1400, 1200))
    assert (width, height) == (1600, 1200)
    assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9])
def test_a_truncated_file_is_reported_and_its_pixels_are_zero(
    tmp_path: Path, format: str, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    content = encode(Image.fromarray(noise), format)
    path = tmp_path / "cut"
    path.write_bytes(content[: int(len(content) * share)])

    pixels, (fact,) = decode_files([path], 10, "crop")

    assert not fact.ok
    assert fact.reason and "\n" not in fact.reason
    assert len(fact.digest) == 64
    assert not pixels.any()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_overwritten_bytes_never_raise(tmp_path: Path, format: str) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    content = np.frombuffer(encode(Image.fromarray(noise), format), dtype=np.uint8)
    paths = [tmp_path / str(number) for number in range(60)]
    for path in paths:
        damaged = content.copy()
        damaged[generator.integers(0, len(damaged), 8)] = generator.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())

    _, facts = decode_files(paths, 10, "crop")

    assert all(fact.ok or fact.reason for fact in facts)


def test_text_an_empty_file_and_a_missing_one_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()

    _, facts = decode_files([tmp_path / name for name in ("text", "empty", "missing")], 10, "crop")

    reasons = [fact.reason for fact in facts]
    assert reasons == ["no image format that can be read", "empty file", "No such file or directory"]
    assert facts[2].digest == ""
