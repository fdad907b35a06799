"""Decoding: any image file to a small uint8 RGB square, or the reason why it cannot be read."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from contract.files import find_os_error
from trainables.data.storage_faults import StorageFault, wait_out_faults
from trainables.data.views import Fit

Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


@dataclass(frozen=True)
class ImageFact:
    """What decoding an image file found out."""

    ok: bool
    reason: str
    """Why it cannot be read; empty when it can."""

    width: int
    height: int
    """In pixels, as the image is meant to be seen (orientation applied); 0 when it cannot be read."""

    digest: str
    """Hash of the file's content; empty when there is none."""


def decode_files(paths: Sequence[Path], size: int, fit: Fit) -> tuple[Pixels, list[ImageFact]]:
    """Decode files to [N, size, size, 3]; the pixels of unreadable ones are zero.

    Raises:
        StorageFault: a passing fault kept a file from being read, which says nothing about the image.
    """
    pixels = np.zeros((len(paths), size, size, 3), dtype=np.uint8)
    return pixels, [_decode_file(path, pixels[row], fit) for row, path in enumerate(paths)]


def _decode_file(path: Path, out: Pixels, fit: Fit) -> ImageFact:
    try:
        content = wait_out_faults(path.read_bytes)
    except StorageFault:
        raise
    except OSError as error:
        return unreadable(error)
    digest = digest_of(content)
    try:
        square, width, height = decode_image(content, len(out), fit)
    except _DAMAGED as error:
        if find_os_error(error) is not None:  # of a file of Pillow's own, such as a decoder that it loads
            raise
        reason = str(error).replace("\n", " ") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no image format that can be read" if content else "empty file"
        return ImageFact(ok=False, reason=reason, width=0, height=0, digest=digest)
    out[:] = square
    return ImageFact(ok=True, reason="", width=width, height=height, digest=digest)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unreadable(error: OSError) -> ImageFact:
    return ImageFact(ok=False, reason=error.strerror or str(error), width=0, height=0, digest="")


def decode_image(content: bytes, size: int, fit: Fit) -> tuple[Pixels, int, int]:
    """Decode to an RGB square of side `size`; returns it and the image's own width and height."""
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        orientation = _read_orientation(image)
        image.draft(
            None, (size, size)
        )  # JPEG only: decodes at 1/2, 1/4 or 1/8, never below the size asked for
        square = _to_rgb(image).resize(
            (size, size), Image.Resampling.BICUBIC, box=_kept_box(image.size, fit), reducing_gap=3.0
        )
    if orientation in _TRANSPOSITIONS:
        square = square.transpose(_TRANSPOSITIONS[orientation])
    if orientation >= 5:
        width, height = height, width
    return np.asarray(square), width, height


def _kept_box(original: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """The part of the image that the square shows: everything, or the largest square in its middle."""
    width, height = original
    if fit == "squash":
        return (0, 0, width, height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1  # damaged metadata do not make the picture unreadable


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparent pixels become white, deep greys are scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_deep(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        overlay = image.convert("RGBA")
        white = Image.new("RGBA", overlay.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, overlay).convert("RGB")
    return image.convert("RGB")


def _scale_deep(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    largest = float(values.max(initial=0))
    if image.mode == "F":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        # A 16-bit file may hold 8-bit values in mode "I", never in "I;16".
        scale = 1.0 if image.mode == "I" and largest <= 255 else 1 / 257
    return Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
