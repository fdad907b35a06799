"""Every image mode as RGB, with gradients against the colours that the mode's definition gives."""

from __future__ import annotations

import colorsys
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import contract.decoding
from contract.decoding import FULL_RANGE, DeepRange, UnreadableImage, decode, decode_square, to_rgb
from contract.model_layout import CODE_FILES

Array = np.ndarray[Any, Any]
SIDE = 32


class Case(NamedTuple):
    """An image and what it must look like."""

    image: Image.Image
    expected: Array
    tolerance: int = 0
    """Levels by which Pillow's integer arithmetic may differ from the exact formula."""

    format: str | None = None
    """A file format that keeps the mode; None where there is none."""

    deep: DeepRange = FULL_RANGE
    """What is black and white in the data set that the image is of."""


def gradients() -> Array:
    """uint8 [SIDE, SIDE, 4]: across, down, diagonal, and from the right."""
    down, across = np.mgrid[:SIDE, :SIDE] * 255 / (SIDE - 1)
    bands = np.stack([across, down, (across + down) / 2, 255 - across], axis=2)
    return np.asarray(bands.round().astype(np.uint8))


BANDS = gradients()
GREY, ALPHA = BANDS[..., 2], BANDS[..., 1]
INDICES = (np.arange(SIDE * SIDE) % 256).astype(np.uint8).reshape(SIDE, SIDE)
PALETTE = np.stack([255 - np.arange(256), np.arange(256), np.arange(256) // 2], axis=1).astype(np.uint8)
DEEP = np.linspace(0, 65535, SIDE * SIDE).round().reshape(SIDE, SIDE)


def grey(values: Array) -> Array:
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


def on_white(colour: Array, alpha: Array) -> Array:
    opacity = alpha[..., None] / 255
    return np.asarray(colour * opacity + 255 * (1 - opacity))


def raw(mode: str, content: Array) -> Image.Image:
    return Image.frombytes(mode, (SIDE, SIDE), np.ascontiguousarray(content).tobytes())


def indexed(**info: Any) -> Image.Image:
    image = raw("P", INDICES)
    image.putpalette(PALETTE.tobytes())
    image.info.update(info)
    return image


def indexed_with_alpha() -> Image.Image:
    image = raw("PA", np.stack([INDICES, ALPHA], axis=2))
    image.putpalette(PALETTE.tobytes())
    return image


def from_hsv(bands: Array) -> Array:
    colours = [colorsys.hsv_to_rgb(*pixel) for pixel in bands.reshape(-1, 3) / 255]
    return np.asarray(colours).reshape(SIDE, SIDE, 3) * 255


def from_ycbcr(bands: Array) -> Array:
    luma, blue, red = (bands[..., band].astype(float) for band in range(3))
    blue, red = blue - 128, red - 128
    colours = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.asarray(np.stack(colours, axis=2).clip(0, 255))


def from_lab(bands: Array) -> Array:
    """CIE L*a*b* under D50 to sRGB; the bands are L* * 2.55, a* + 128 and b* + 128."""
    lightness, red, yellow = bands[..., 0] / 2.55, bands[..., 1] - 128.0, bands[..., 2] - 128.0
    middle = (lightness + 16) / 116
    roots = np.stack([middle + red / 500, middle, middle - yellow / 200], axis=2)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * [0.9642, 1.0, 0.8249]
    linear = (xyz @ np.array(XYZ_TO_RGB).T).clip(0, 1)
    return np.asarray(np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255)


XYZ_TO_RGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
"""From D50, by Bradford's adaptation."""
MUTED = np.stack([BANDS[..., 0] * 0.6 + 60, 118 + BANDS[..., 1] * 0.08, 118 + BANDS[..., 2] * 0.08], axis=2)
LAB = MUTED.round().astype(np.uint8)
"""Colours that sRGB has, too."""
MULTIPLIED = (BANDS[..., :3] * (ALPHA[..., None] / 255)).round().astype(np.uint8)
COLOUR = PALETTE[INDICES]
MASK = GREY > 100
OPACITIES = np.arange(256).astype(np.uint8)

CASES = {
    "1": Case(
        raw("L", MASK * np.uint8(255)).convert("1", dither=Image.Dither.NONE), grey(MASK * 255), 0, "PNG"
    ),
    "L": Case(raw("L", GREY), grey(GREY), 0, "PNG"),
    "L with transparency": Case(raw("L", GREY), np.where(grey(GREY) == 99, 255, grey(GREY)), 0, "PNG"),
    "LA": Case(raw("LA", np.stack([GREY, ALPHA], axis=2)), on_white(grey(GREY), ALPHA), 1, "PNG"),
    "La": Case(raw("La", np.stack([MULTIPLIED[..., 2], ALPHA], axis=2)), on_white(grey(GREY), ALPHA), 2),
    "P": Case(indexed(), COLOUR, 0, "PNG"),
    "P with a transparent colour": Case(
        indexed(transparency=7), np.where((INDICES == 7)[..., None], 255, COLOUR), 0, "PNG"
    ),
    "P with opacities": Case(
        indexed(transparency=OPACITIES.tobytes()), on_white(COLOUR, OPACITIES[INDICES]), 1, "PNG"
    ),
    "PA": Case(indexed_with_alpha(), on_white(COLOUR, ALPHA), 1),
    "RGB": Case(raw("RGB", BANDS[..., :3]), BANDS[..., :3], 0, "PNG"),
    "RGBA": Case(raw("RGBA", BANDS), on_white(BANDS[..., :3], BANDS[..., 3]), 1, "PNG"),
    "RGBa": Case(
        raw("RGBa", np.concatenate([MULTIPLIED, ALPHA[..., None]], axis=2)),
        on_white(BANDS[..., :3], ALPHA),
        2,
    ),
    "RGBX": Case(raw("RGBX", BANDS), BANDS[..., :3], 0, "TIFF"),
    "CMYK": Case(raw("CMYK", BANDS), (255 - BANDS[..., :3]) * ((255 - BANDS[..., 3:]) / 255), 1, "TIFF"),
    "YCbCr": Case(raw("YCbCr", BANDS[..., :3]), from_ycbcr(BANDS[..., :3]), 2),
    "HSV": Case(raw("HSV", BANDS[..., :3]), from_hsv(BANDS[..., :3]), 2),
    "LAB": Case(raw("LAB", LAB ^ np.array([0, 128, 128], np.uint8)), from_lab(LAB), 3, "TIFF"),
    "I": Case(Image.fromarray(DEEP.astype(np.int32)), grey(DEEP / 257), 1, "TIFF"),
    "I of 8 bits": Case(Image.fromarray(GREY.astype(np.int32)), grey(GREY), 0, "TIFF", DeepRange(0, 255)),
    "I below zero": Case(
        Image.fromarray((DEEP - 1024).astype(np.int32)), grey(DEEP / 257), 1, "TIFF", DeepRange(-1024, 64511)
    ),
    "F of 0 to 1": Case(Image.fromarray((DEEP / 65535).astype(np.float32)), grey(DEEP / 257), 1, "TIFF"),
    "F of 0 to 255": Case(
        Image.fromarray(GREY.astype(np.float32)), grey(GREY), 0, "TIFF", DeepRange(float_white=255)
    ),
    "F with what is no number": Case(
        Image.fromarray(
            np.where(GREY > 99, np.where(GREY > 199, np.inf, -np.inf), np.nan).astype(np.float32)
        ),
        grey((GREY > 199) * 255),
        0,
        "TIFF",
    ),
    "I;16 of 12 bits": Case(
        raw("I;16", (DEEP / 65535 * 4095).astype("<u2")), grey(DEEP / 257), 1, "PNG", DeepRange(0, 4095)
    ),
    "I;16 above white": Case(
        raw("I;16", DEEP.astype("<u2")), grey((DEEP / 4095 * 255).clip(0, 255)), 1, "PNG", DeepRange(0, 4095)
    ),
    "I;16": Case(raw("I;16", DEEP.astype("<u2")), grey(DEEP / 257), 1, "PNG"),
    "I;16L": Case(raw("I;16L", DEEP.astype("<u2")), grey(DEEP / 257), 1),
    "I;16B": Case(raw("I;16B", DEEP.astype(">u2")), grey(DEEP / 257), 1, "TIFF"),
    "I;16N": Case(raw("I;16N", DEEP.astype("=u2")), grey(DEEP / 257), 1),
    "I;16 that is dark": Case(raw("I;16", GREY.astype("<u2")), grey((GREY > 128) * 1), 1, "TIFF"),
}
CASES["L with transparency"].image.info["transparency"] = 99


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def worst(pixels: Any, case: Case) -> float:
    return float(np.abs(np.asarray(pixels).astype(float) - case.expected).max())


def test_every_mode_of_pillow_is_tested() -> None:
    tested = {case.image.mode for case in CASES.values()}

    assert tested >= set(Image.MODES)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_of_every_mode_keeps_its_colours(name: str) -> None:
    case = CASES[name]

    converted = to_rgb(case.image, deep=case.deep)

    assert converted.mode == "RGB"
    assert worst(converted, case) <= case.tolerance


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.format])
def test_files_of_every_mode_decode_to_the_same_colours(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = tmp_path / "image"
    path.write_bytes(encode(case.image, str(case.format)))

    whole, square = decode(path, deep=case.deep), decode_square(path, size=SIDE, fit="crop", deep=case.deep)
    others = [decode_square(path, size=SIDE, fit=fit, deep=case.deep) for fit in ("squash", "pad")]

    assert whole.dtype == square.pixels.dtype == np.uint8
    assert worst(whole, case) <= case.tolerance
    assert worst(square.pixels, case) <= case.tolerance
    assert (square.width, square.height) == (SIDE, SIDE)
    assert all((other.pixels == square.pixels).all() for other in others)  # of a square all are the same


@pytest.mark.parametrize(
    ("orientation", "turns", "mirrored"),
    [
        (1, 0, False),
        (2, 0, True),
        (3, 2, False),
        (4, 2, True),
        (5, 1, True),
        (6, 3, False),
        (7, 3, True),
        (8, 1, False),
    ],
)
def test_the_orientation_a_camera_wrote_is_applied(orientation: int, turns: int, mirrored: bool) -> None:
    stored = BANDS[:20, :, :3]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(stored), "PNG", exif=exif)
    # What the standard says, by rotations to the left of what is stored, after mirroring it.
    upright = np.rot90(stored[:, ::-1] if mirrored else stored, turns)

    square = decode_square(content, size=20, fit="squash")

    np.testing.assert_array_equal(decode(content), upright)
    assert (square.height, square.width) == upright.shape[:2]
    resized = Image.fromarray(upright).resize((20, 20), Image.Resampling.BICUBIC)
    assert np.abs(square.pixels.astype(int) - np.asarray(resized)).max() <= 2


def test_a_whole_tiff_is_turned_once_and_a_large_jpeg_is_decoded_at_a_fraction() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tiff = encode(Image.fromarray(BANDS[:20, :, :3]), "TIFF", exif=exif)
    jpeg = encode(Image.fromarray(BANDS[..., :3]).resize((800, 400)), "JPEG")

    assert decode(jpeg).shape == (400, 800, 3)
    assert decode(jpeg, at_least=90).shape == (100, 200, 3)
    np.testing.assert_array_equal(decode(tiff), np.rot90(BANDS[:20, :, :3], 3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"hello", "no image format that can be read"), (b"GIF89a", "no image format")],
)
def test_what_is_no_image_is_refused_in_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(content)
    with pytest.raises(UnreadableImage, match=reason):
        decode_square(content, size=8, fit="crop")


def test_a_copy_of_the_file_decodes_without_the_project(tmp_path: Path) -> None:
    package = tmp_path / "contract"
    package.mkdir()
    for name in CODE_FILES:
        shutil.copy(Path(str(contract.decoding.__file__)).with_name(name), package)
    (tmp_path / "image.png").write_bytes(encode(CASES["RGB"].image, "PNG"))
    code = "import pathlib, contract.decoding as d; print(d.decode(pathlib.Path('image.png')).sum())"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    )

    assert int(done.stdout) == int(BANDS[..., :3].astype(int).sum())
