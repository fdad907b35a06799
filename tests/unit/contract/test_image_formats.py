"""Every format's orientation, several pictures, transparency, sizes, and formats that need a plug-in."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageOps, features

import contract.image_formats
from contract.decoding import (
    KNOWN_SUFFIXES,
    Fit,
    Remark,
    UnreadableImage,
    decode,
    decode_square,
    readable_suffixes,
)

needs_heif = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
WIDTH, HEIGHT = 48, 32


def photo(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth image whose eight orientations all differ."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    bands = np.stack([across, down, across * down], axis=2)
    return Image.fromarray((255 * bands).astype(np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_xmp(jpeg: bytes, orientation: int) -> bytes:
    text = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    data = b"http://ns.adobe.com/xap/1.0/\0" + text.encode()
    return jpeg[:2] + b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data + jpeg[2:]


CARRIERS: dict[str, Any] = {
    "JPEG": lambda image, n: encode(image, "JPEG", exif=tagged(n), quality=95),
    "JPEG with XMP": lambda image, n: with_xmp(encode(image, "JPEG", quality=95), n),
    "MPO": lambda image, n: encode(
        image, "MPO", exif=tagged(n), save_all=True, append_images=[image], quality=95
    ),
    "PNG": lambda image, n: encode(image, "PNG", exif=tagged(n)),
    "WebP": lambda image, n: encode(image, "WEBP", exif=tagged(n), lossless=True),
    "TIFF": lambda image, n: encode(image, "TIFF", exif=tagged(n)),
    "TIFF with LZW": lambda image, n: encode(image, "TIFF", exif=tagged(n), compression="tiff_lzw"),
    "TIFF of 16 bits": lambda image, n: encode(deep(image), "TIFF", exif=tagged(n)),
}
if features.check("avif"):
    CARRIERS["AVIF"] = lambda image, n: encode(image, "AVIF", exif=tagged(n), quality=95)


def deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_image_is_turned_as_exif_transpose_turns_it(carrier: str, orientation: int) -> None:
    content = CARRIERS[carrier](photo(), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if upright.mode != "RGB":
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8)).convert("RGB")

    whole, square = decode(content), decode_square(content, size=24, fit="squash")

    np.testing.assert_array_equal(whole, np.asarray(upright))
    assert (square.width, square.height) == upright.size
    if carrier != "JPEG with XMP":  # which Pillow 11 does not look into
        assert upright.size == ((HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT))
    expected = upright.resize((24, 24), Image.Resampling.BICUBIC)
    assert np.abs(square.pixels.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    content = encode(photo(), "PNG", exif=tagged(orientation))

    np.testing.assert_array_equal(decode(content), np.asarray(photo()))


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_file_is_read_and_turned_once(orientation: int) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    stored = photo()
    stored.info["exif"] = tagged(orientation).tobytes()  # written as the turn that phones write
    content = encode(stored, "HEIF", quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(CARRIERS["PNG"](photo(), orientation))))

    square = decode_square(content, size=24, fit="crop")

    np.testing.assert_array_equal(decode(content), np.asarray(upright))
    assert (square.width, square.height) == expected.size
    assert np.abs(decode(content).astype(int) - np.asarray(expected)).mean() < 4


@needs_heif
def test_a_process_that_has_read_nothing_yet_reads_heic() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    content = encode(photo(), "HEIF")
    code = "import sys; from contract.decoding import decode; print(decode(sys.stdin.buffer.read()).shape)"

    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)

    assert done.stdout.split() == [b"(32,", b"48,", b"3)"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), r"HEIC needs pip install 'unfreeze\[formats\]'"),
        (b"\xff\x0a" + bytes(40), r"JPEG XL needs pip install 'unfreeze\[formats\]'"),
    ],
)
def test_a_format_without_its_plug_in_says_what_it_needs(
    content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed

    with pytest.raises(UnreadableImage, match=reason):
        decode_square(content, size=8, fit="crop")


def test_suffixes_are_those_that_can_be_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here = readable_suffixes()
    monkeypatch.setattr(contract.image_formats, "find_spec", lambda _: None)
    monkeypatch.setattr(features, "check", lambda _: False)
    bare = readable_suffixes()

    assert {".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".mpo", ".ico"} <= bare
    assert not {".heic", ".jxl", ".webp", ".avif", ".jp2"} & bare
    assert (".heic" in here) == (find_spec("pillow_heif") is not None)
    assert KNOWN_SUFFIXES[".heic"] == "pip install 'unfreeze[formats]'"
    assert all(suffix in KNOWN_SUFFIXES for suffix in here - bare)
    assert "raw" in KNOWN_SUFFIXES[".cr2"]
    assert not bare & KNOWN_SUFFIXES.keys()


def animated(format: str, **options: Any) -> bytes:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("blue", "red", "green")]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize(
    "content",
    [
        animated("GIF"),
        animated("WEBP", lossless=True),
        animated("PNG"),
        animated("TIFF"),
        animated("MPO", exif=tagged(1)),
    ],
    ids=["GIF", "WebP", "APNG", "TIFF", "MPO"],
)
def test_the_first_of_several_pictures_is_used_and_it_is_said(content: bytes) -> None:
    if content.startswith(b"\xff\xd8") and Image.open(io.BytesIO(content)).format != "MPO":
        pytest.skip("Pillow 11 writes a damaged MPO file")

    square = decode_square(content, size=10, fit="crop")

    assert Remark.SEVERAL in square.remarks
    assert np.abs(square.pixels.astype(int) - (0, 0, 255)).max() <= 3


def test_the_largest_picture_of_an_icon_is_used() -> None:
    content = encode(photo(64, 64), "ICO", sizes=[(16, 16), (64, 64)])

    square = decode_square(content, size=10, fit="crop")

    assert (square.width, square.height) == (64, 64)
    assert Remark.SEVERAL in square.remarks


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_plain_file_has_no_remarks(format: str) -> None:
    assert decode_square(encode(photo(), format), size=10, fit="crop").remarks == ()


def test_transparency_is_remarked_where_something_is_transparent() -> None:
    opaque, clear = photo().convert("RGBA"), photo().convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))

    of_opaque = decode_square(encode(opaque, "PNG"), size=10, fit="crop")
    of_clear = decode_square(encode(clear, "PNG"), size=10, fit="crop")

    assert of_opaque.remarks == ()
    assert of_clear.remarks == (Remark.TRANSPARENT,)
    assert decode(encode(clear, "PNG"))[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(decode(encode(opaque, "PNG")), np.asarray(photo()))


def png_of_size(width: int, height: int, *, kind: bytes = b"\x08\x00", clear: bytes = b"") -> bytes:
    """A PNG file of zeros."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + kind + b"\0\0\0"
    row = 1 + width * (kind[0] // 8) * {0: 1, 2: 3}[kind[1]]
    parts = [(b"IHDR", header), *([(b"tRNS", clear)] if clear else [])]
    parts += [(b"IDAT", zlib.compress(bytes(row * height if row * height < 10**8 else 9))), (b"IEND", b"")]
    chunks = [
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (100_000, 100_000)])
def test_a_bomb_is_refused_with_its_size_and_a_way_out(width: int, height: int) -> None:
    with pytest.raises(UnreadableImage, match="more than the 512 megapixels that are read: scale it down"):
        decode_square(png_of_size(width, height), size=10, fit="crop")


@pytest.mark.filterwarnings("error")
def test_a_scan_of_two_hundred_megapixels_is_read() -> None:
    content = encode(Image.new("L", (20_000, 10_000), 77), "JPEG")

    square = decode_square(content, size=100, fit="crop")

    assert (square.width, square.height) == (20_000, 10_000)
    assert (square.pixels == 77).all()


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (3, 1), (1, 500), (500, 1), (2, 1000)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF"])
def test_the_smallest_and_the_thinnest_images_are_read(format: str, size: tuple[int, int], fit: Fit) -> None:
    square = decode_square(encode(Image.new("RGB", size, (200, 200, 200)), format), size=16, fit=fit)

    assert (square.width, square.height) == size
    assert np.abs(square.pixels[7, 7].astype(int) - 200).max() <= 2


def test_a_transparent_colour_of_sixteen_bits_is_white_and_the_depth_is_remarked() -> None:
    content = png_of_size(8, 8, kind=b"\x10\x02", clear=bytes(6))

    square = decode_square(content, size=8, fit="crop")

    assert (square.pixels == 255).all()
    assert set(square.remarks) == {Remark.DEEP_COLOUR, Remark.TRANSPARENT}


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    content = png_of_size(8, 8, kind=b"\x10\x00", clear=bytes(2))

    assert (decode(content) == 255).all()


def test_pad_shows_all_of_an_image_in_its_proportions_on_a_neutral_ground() -> None:
    image = Image.new("RGB", (640, 160), (250, 250, 250))
    image.paste((200, 0, 0), (600, 0, 640, 160))  # the object at the edge

    padded = decode_square(encode(image, "PNG"), size=64, fit="pad").pixels
    cropped = decode_square(encode(image, "PNG"), size=64, fit="crop").pixels

    assert (padded[:24] == (124, 116, 104)).all() and (padded[40:] == (124, 116, 104)).all()
    assert np.abs(padded[24:40, 62:].astype(int) - (200, 0, 0)).max() <= 8
    assert (padded[24:40, :56] == 250).all()
    assert (cropped == 250).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_is_padded_as_the_upright_one(orientation: int) -> None:
    content = encode(photo(50, 21), "PNG", exif=tagged(orientation))
    upright = encode(ImageOps.exif_transpose(Image.open(io.BytesIO(content))), "PNG")

    turned, plain = (decode_square(one, size=30, fit="pad").pixels for one in (content, upright))

    assert np.abs(turned.astype(int) - plain).max() <= 2
