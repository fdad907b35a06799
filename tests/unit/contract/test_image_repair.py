"""Odd but whole files give their pixels; files that lack pixels are refused."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from contract.decoding import Remark, UnreadableImage, decode, decode_square

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {}),
    "JPEG of 4:4:4": ("JPEG", {"subsampling": 0, "optimize": True}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "JPEG with restarts": ("JPEG", {"restart_marker_rows": 1}),
    "PNG": ("PNG", {}),
    "GIF": ("GIF", {}),
    "WebP": ("WEBP", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "TIFF with LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "PPM": ("PPM", {}),
}


def noise(seed: int = 0, size: tuple[int, int] = (61, 50)) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with further chunks behind its header."""
    plain = encode(noise(), "PNG")
    extra = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return plain[:33] + b"".join(extra) + plain[33:]


def jpeg_with(*segments: tuple[int, bytes], exif: bytes = b"") -> bytes:
    plain = encode(noise(), "JPEG", exif=exif)
    extra = [struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data for marker, data in segments]
    return plain[:2] + b"".join(extra) + plain[2:]


def tiff_with_text(num_bytes: int) -> bytes:
    return encode(noise(), "TIFF", tiffinfo={270: "x" * num_bytes})


TEXT = b"prompt\0" + b"x" * 10
HUGE = zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))
ODD = {
    "a large compressed text": png_with((b"zTXt", b"prompt\0\0" + HUGE)),
    "a large international text": png_with((b"iTXt", b"workflow\0\1\0\0\0" + HUGE)),
    "texts that are large together": png_with((b"tEXt", b"prompt\0" + b"x" * (65 << 20))),
    "a large profile": png_with((b"iCCP", b"icc\0\0" + HUGE)),
    "a profile of another compression": png_with((b"iCCP", b"icc\0\7" + b"junk")),
    "a profile without an end of its name": png_with((b"iCCP", b"")),
    "a text of another compression": png_with((b"zTXt", b"prompt\0\7junk")),
    "a density that is cut": png_with((b"pHYs", b"\0")),
    "a gamma that is cut": png_with((b"gAMA", b"\0")),
    "an animation that is cut": png_with((b"acTL", b"\0")),
    "Exif that is junk, of a PNG": png_with((b"eXIf", b"junk" * 9)),
    "Exif that is junk, of a JPEG": jpeg_with((0xE1, b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f" + b"junk" * 9)),
    "a profile that is junk": jpeg_with((0xE2, b"ICC_PROFILE\0\1\1junk"), (0xE2, b"ICC_PROFILE\0")),
    "Photoshop's part that is junk": jpeg_with((0xED, b"Photoshop 3.0\08BIM\x03\xed\0\0\0\0\0\x10ju")),
    "a list of pictures that is junk": jpeg_with((0xE2, b"MPF\0II*\0\x08\0\0\0junkjunkjunk")),
    "an empty comment": jpeg_with((0xFE, b"")),
    "a long description": tiff_with_text(2 << 20),
    "a profile that is junk, of a WebP": encode(noise(), "WEBP", lossless=True, icc_profile=b"junk"),
    "Exif that is junk, of a WebP": encode(noise(), "WEBP", lossless=True, exif=b"Exif\0\0junk"),
}


@pytest.mark.parametrize("what", ODD)
def test_metadata_never_cost_pixels(what: str) -> None:
    content = ODD[what]
    is_jpeg = content.startswith(b"\xff\xd8")
    expected = decode(encode(noise(), "JPEG")) if is_jpeg else np.asarray(noise())

    np.testing.assert_array_equal(decode(content), expected)
    assert decode_square(content, size=20, fit="crop").width == 61


def test_the_orientation_beside_a_text_that_is_too_large_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png_with((b"zTXt", b"prompt\0\0" + HUGE), (b"eXIf", exif.tobytes()[6:]))

    square = decode_square(content, size=20, fit="squash")

    np.testing.assert_array_equal(decode(content), np.rot90(np.asarray(noise()), 3))
    assert (square.width, square.height) == (50, 61)
    assert square.remarks == (Remark.CLEANED,)


def test_files_are_cleaned_in_threads_without_touching_pillows_settings() -> None:
    content, expected = ODD["a large compressed text"], np.asarray(noise())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode, [content] * 32))

    assert all((pixels == expected).all() for pixels in found)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "JPEG" in kind])
def test_a_jpeg_without_its_end_marker_is_used(kind: str, seed: int) -> None:
    format, options = KINDS[kind]
    content = encode(noise(seed, (64 + seed, 50)), format, **options)

    for cut in (1, 2):
        square = decode_square(content[:-cut], size=20, fit="crop")
        np.testing.assert_array_equal(decode(content[:-cut]), decode(content))
        assert square.remarks == (Remark.SHORTENED,)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_is_either_the_same_picture_or_refused(kind: str) -> None:
    format, options = KINDS[kind]
    content = encode(noise(), format, **options)
    whole = decode(content)

    for length in [*range(len(content) - 30, len(content)), *range(len(content) // 20, len(content), 997)]:
        try:
            found = decode(content[:length])
        except UnreadableImage:
            continue
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_file_is_refused(kind: str, share: float) -> None:
    format, options = KINDS[kind]
    content = encode(noise(size=(200, 150)), format, **options)

    with pytest.raises(UnreadableImage):
        decode(content[: int(share * len(content))])
    with pytest.raises(UnreadableImage):
        decode_square(content[: int(share * len(content))], size=20, fit="crop")


@pytest.mark.parametrize(
    "rest", [b"\xff\xd9", bytes(5000), b"\xff\xd9" + bytes(5000)], ids=["an end", "zeros", "both"]
)
def test_half_a_jpeg_whose_rest_was_filled_up_is_refused(rest: bytes) -> None:
    content = encode(noise(size=(200, 150)), "JPEG")

    with pytest.raises(UnreadableImage):
        decode(content[: len(content) // 2] + rest)


@pytest.mark.parametrize("rest", [bytes(5000), b"camera" * 100, b"\xff\xd9"], ids=["zeros", "more", "an end"])
def test_a_whole_jpeg_with_something_behind_it_is_used(rest: bytes) -> None:
    content = encode(noise(), "JPEG")

    square = decode_square(content + rest, size=20, fit="crop")

    np.testing.assert_array_equal(decode(content + rest), decode(content))
    assert square.remarks == ()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_whole_jpeg_that_ends_in_grey_is_used(mode: str) -> None:
    grey = Image.new("RGB", (100, 100), (128, 128, 128)).convert(mode)
    grey.paste(0, (0, 0, 50, 50))

    square = decode_square(encode(grey, "JPEG"), size=20, fit="crop")

    assert square.remarks == ()
    assert (square.pixels[15:, 15:] == 128).all()


def test_a_decoder_that_raises_anything_makes_an_unreadable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("decoder\nfell over")

    content = encode(noise(), "PNG")
    monkeypatch.setattr(Image.Image, "resize", fail)

    with pytest.raises(UnreadableImage, match=r"^decoder fell over$"):
        decode_square(content, size=20, fit="crop")
