"""Decodes the bytes of any image file to upright RGB, in training and in serving alike.

An exported model carries a copy of this file, so it imports numpy and Pillow only.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Fit: TypeAlias = Literal["crop", "squash"]
""""crop" keeps the largest square in the middle; "squash" keeps everything and changes the proportions."""

# What Pillow's decoders raise on damaged files; found by feeding them truncated and overwritten ones.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


class UnreadableImage(ValueError):
    """The content is no image, or a damaged one; the message is one line that says why.

    What Pillow raised is the cause, among it faults of the storage that Pillow met.
    """


@dataclass(frozen=True, eq=False)
class DecodedSquare:
    """A small square of an image, and the size of the whole."""

    pixels: Pixels
    """[size, size, 3]."""

    width: int
    height: int
    """Height and width of the whole image in pixels, its orientation applied."""


def decode_square(content: bytes | Path, *, size: int, fit: Fit) -> DecodedSquare:
    """Decode an image to the square of side `size` that a network is trained on and asked about.

    Raises:
        UnreadableImage: the content is no image that can be read.
        OSError: the file of a path cannot be read.
    """
    content = _read(content)
    try:
        return _decode_square(content, size, fit)
    except _DAMAGED as error:
        raise UnreadableImage(_describe(error, content)) from error


def decode(content: bytes | Path, *, at_least: int | None = None) -> Pixels:
    """Decode the whole image to uint8 [height, width, 3].

    Args:
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep so many
            pixels, which is several times faster; None = full size.

    Raises:
        UnreadableImage: the content is no image that can be read.
        OSError: the file of a path cannot be read.
    """
    content = _read(content)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()  # which turns a TIFF upright, so that its orientation is read after it
            return np.asarray(_turn_upright(to_rgb(image), _read_orientation(image)))
    except _DAMAGED as error:
        raise UnreadableImage(_describe(error, content)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparent pixels become white, deep greys are scaled to 8 bits.

    Raises:
        ValueError: Pillow has no way from this mode to RGB.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_deep(image).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        # Pillow has no direct way from grey with its alpha multiplied in.
        overlay = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", overlay.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, overlay).convert("RGB")
    return image.convert("RGB")


def _scale_deep(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to mode L; in modes I and F the maximum tells the range."""
    values = np.asarray(image).astype(np.float32)
    largest = float(values.max(initial=0))
    if image.mode == "F":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        # A 16-bit file may hold 8-bit values in mode "I", never in "I;16".
        scale = 1.0 if image.mode == "I" and largest <= 255 else 1 / 257
    return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))


def _decode_square(content: bytes, size: int, fit: Fit) -> DecodedSquare:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        # Pillow turns a TIFF upright while it loads, so one with an orientation is turned twice here. Image
        # stores hold it so: to read the orientation after loading needs a new FORMAT of theirs.
        orientation = _read_orientation(image)
        # JPEG only: decodes at 1/2, 1/4 or 1/8, never below the size asked for.
        image.draft(None, (size, size))
        # Resized first, turned after: the other way round rounds differently, and stores would change.
        square = to_rgb(image).resize(
            (size, size), Image.Resampling.BICUBIC, box=_kept_box(image.size, fit), reducing_gap=3.0
        )
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return DecodedSquare(np.asarray(_turn_upright(square, orientation)), width, height)


def _kept_box(original: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """Return the box that the square shows: the whole image, or the largest square in its middle."""
    width, height = original
    if fit == "squash":
        return (0, 0, width, height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGED:
        return 1  # damaged metadata do not make the picture unreadable


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    bare = Image.fromarray(np.asarray(image))  # without metadata, which may be damaged
    bare.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(bare)


def _read(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _describe(error: BaseException, content: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format that can be read" if content else "empty file"
    return str(error).replace("\n", " ") or type(error).__name__
