"""Decodes the bytes of any image file to upright RGB, in training and in serving alike.

An exported model carries a copy of this file and the two it imports, so they import numpy and Pillow only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from contract.image_formats import KNOWN_SUFFIXES as KNOWN_SUFFIXES
from contract.image_formats import load_plugin
from contract.image_formats import readable_suffixes as readable_suffixes
from contract.image_repair import lacks_end, repairs

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
ResultT = TypeVar("ResultT")
Fit: TypeAlias = Literal["crop", "squash", "pad"]
""""crop" keeps the largest square in the middle; "squash" keeps everything and changes the proportions; "pad"
keeps everything and the proportions, on a ground of GROUND."""

GROUND = (124, 116, 104)
"""Colour beside a padded image: the mean of ImageNet, so that a network that normalises by it sees zeros, as
where its own convolutions pad; one that normalises by 0.5 sees -0.03 to -0.18."""

MOST_PIXELS = 512 * 2**20
"""A larger image is refused: Pillow would hold it in 2 GB."""

TOO_LARGE = f"more than the {MOST_PIXELS >> 20} megapixels that are read: scale it down, or cut it into tiles"

LARGE_PIXELS = 64 * 2**20
"""Size from which a process decodes one image at a time, so that threads do not fill the memory together."""

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_UNWRITTEN = (128, (128, 128, 128))
"""What libjpeg puts where a file with an end marker lacks data."""

_one_large = Lock()
# Pillow's own limit is a global: raised to this file's, which is checked where an image is opened.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MOST_PIXELS)


class UnreadableImage(ValueError):
    """The content is no image, or a damaged one; the message is one line that says why.

    What Pillow raised is the cause, among it faults of the storage that Pillow met.
    """


class Remark(StrEnum):
    """What is odd about an image that can be read."""

    SEVERAL = "several"
    """The file holds several pictures; the first is used, of an icon the largest."""
    TRANSPARENT = "transparent"
    DEEP = "deep"
    """Grey of more than 8 bits, or floating-point numbers: a DeepRange says what is black and white."""
    DEEP_COLOUR = "deep colour"
    """Colours of 16 bits a channel, of which Pillow gives the upper 8."""
    SHORTENED = "shortened"
    """The end of the file is missing, but nothing of the picture."""
    CLEANED = "cleaned"
    """Only without the metadata of its file it could be read."""


@dataclass(frozen=True)
class DeepRange:
    """The values that become black and white in images of more than 8 bits: the same in a whole data set."""

    black: float = 0.0
    white: float = 65535.0
    """Values of whole numbers that become black and white."""

    float_black: float = 0.0
    float_white: float = 1.0

    def scale(self, values: Any, mode: str) -> Pixels:
        """Scale the values of a mode to uint8; NaN and minus infinity become black, infinity white."""
        is_float = mode == "F"
        black, white = (self.float_black, self.float_white) if is_float else (self.black, self.white)
        levels: Floats = np.asarray(values).astype(np.float32)
        if is_float:
            np.nan_to_num(levels, copy=False, nan=black, posinf=white, neginf=black)
        levels -= black
        levels *= 255 / (white - black)
        levels += 0.5
        return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


FULL_RANGE = DeepRange()
"""The range of a data set in which no image of more than 8 bits was met."""


@dataclass(frozen=True, eq=False)
class DecodedSquare:
    """A small square of an image, and the size of the whole."""

    pixels: Pixels
    """[size, size, 3]."""

    width: int
    height: int
    """Height and width of the whole image in pixels, its orientation applied."""

    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """An image in RGB, to be turned by `orientation`; `size` is that of the whole."""

    image: Image.Image
    size: tuple[int, int]
    orientation: int
    remarks: tuple[Remark, ...]


def decode_square(
    content: bytes | Path, *, size: int, fit: Fit, deep: DeepRange = FULL_RANGE
) -> DecodedSquare:
    """Decode an image to the square of side `size` that a network is trained on and asked about.

    Raises:
        UnreadableImage: the content is no image that can be read.
        OSError: the file of a path cannot be read.
    """

    def finish(loaded: _Loaded) -> DecodedSquare:
        width, height = loaded.size
        if loaded.orientation in (5, 6, 7, 8):
            width, height = height, width
        square = _fit_square(loaded.image, loaded.orientation, size, fit)
        return DecodedSquare(square, width, height, loaded.remarks)

    return _read(content, finish, at_least=size, deep=deep)


def decode(content: bytes | Path, *, at_least: int | None = None, deep: DeepRange = FULL_RANGE) -> Pixels:
    """Decode the whole image to uint8 [height, width, 3].

    Args:
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep so many
            pixels, which is several times faster; None = full size.

    Raises:
        UnreadableImage: the content is no image that can be read.
        OSError: the file of a path cannot be read.
    """

    def finish(loaded: _Loaded) -> Pixels:
        return np.asarray(_turn_upright(loaded.image, loaded.orientation))

    return _read(content, finish, at_least=at_least, deep=deep)


def deep_values(content: bytes | Path) -> tuple[str, Any]:
    """Decode an image of more than 8 bits as it is: its mode and its values [height, width].

    Raises:
        UnreadableImage: the content is no image that can be read, or none of a mode of DEEP_MODES.
        OSError: the file of a path cannot be read.
    """
    content = content.read_bytes() if isinstance(content, Path) else content
    try:
        with open_header(io.BytesIO(content)) as image:
            if image.mode in DEEP_MODES:
                return image.mode, np.asarray(image)
    except Exception as error:  # whatever a decoder raises
        raise UnreadableImage(_describe(error, content)) from error
    raise UnreadableImage("no image of more than 8 bits")


def open_header(file: io.BytesIO | Path) -> Image.Image:
    """Open an image without decoding it: its size and mode are known, where need be through a plug-in.

    Raises:
        UnreadableImage: the image is too large, or needs a plug-in that is not installed.
        Exception: whatever Pillow and its plug-ins raise on a damaged file.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        with nullcontext(file) if isinstance(file, io.BytesIO) else file.open("rb") as stream:
            stream.seek(0)
            lacking = load_plugin(stream.read(16))
            stream.seek(0)
        if lacking:
            raise UnreadableImage(lacking) from None
        image = Image.open(file)
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise UnreadableImage(f"{width} x {height} pixels are {TOO_LARGE}")
    return image


def to_rgb(image: Image.Image, *, deep: DeepRange = FULL_RANGE) -> Image.Image:
    """Convert any mode to RGB: transparent pixels become white, more than 8 bits are scaled to 8.

    Raises:
        ValueError: Pillow has no way from this mode to RGB.
    """
    return _to_rgb(image, deep)[0]


def _to_rgb(image: Image.Image, deep: DeepRange) -> tuple[Image.Image, bool]:
    """Convert to RGB: (the image, whether anything of it was transparent)."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and clear is None:
        return image, False
    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        levels = deep.scale(values, image.mode)
        is_clear = values == clear if isinstance(clear, int) else np.False_
        if np.any(is_clear):
            levels[is_clear] = 255
        return Image.fromarray(levels).convert("RGB"), bool(np.any(is_clear))
    if image.mode not in _WITH_ALPHA and clear is None:
        return image.convert("RGB"), False
    if isinstance(clear, tuple) and max(clear) > 255:  # of a file of 16 bits, whose upper 8 Pillow gives
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    # Pillow has no direct way from grey with its alpha multiplied in.
    overlay = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if overlay.getchannel("A").getextrema()[0] == 255:
        return overlay.convert("RGB"), False
    white = Image.new("RGBA", overlay.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, overlay).convert("RGB"), True


def _read(
    source: bytes | Path, finish: Callable[[_Loaded], ResultT], *, at_least: int | None, deep: DeepRange
) -> ResultT:
    """Load an image and finish it; where a decoder refuses the file, try without what may be wrong with it.

    Raises:
        UnreadableImage: the content is no image that can be read.
        OSError: the file of a path cannot be read.
    """
    content = source.read_bytes() if isinstance(source, Path) else source
    load = partial(_load, finish=finish, at_least=at_least, deep=deep)
    try:
        return load(content)
    except (UnreadableImage, MemoryError, Image.DecompressionBombError) as error:
        raise UnreadableImage(_describe(error, content)) from error
    except Exception as error:  # a decoder may raise anything; the study goes on without the file
        first = error
    has_end = isinstance(first, _PerhapsUnfinished) and not lacks_end(content)
    for repair in repairs(content):
        remarks = (Remark.CLEANED,) if repair.is_cleaned else ()
        is_completed = len(repair.contents) > 1
        if is_completed and not (has_end or repair.is_cleaned):
            remarks = (Remark.SHORTENED,)
        with suppress(Exception):  # the first error is the one to tell
            if not is_completed or _have_same_pixels(repair.contents):
                return load(repair.contents[0], remarks=remarks, is_whole=is_completed)
    raise UnreadableImage(_describe(first, content)) from first


class _PerhapsUnfinished(Exception):
    """Raised for a JPEG that ends in what libjpeg writes where data are missing."""


def _load(
    content: bytes,
    *,
    finish: Callable[[_Loaded], ResultT],
    at_least: int | None,
    deep: DeepRange,
    remarks: tuple[Remark, ...] = (),
    is_whole: bool = False,
) -> ResultT:
    """Decode a file and finish the image; `is_whole` once it is known that nothing of it is missing."""
    with open_header(io.BytesIO(content)) as image:
        size, is_jpeg, is_deep_colour = image.size, image.format in ("JPEG", "MPO"), has_deep_colour(image)
        if at_least is not None:
            image.draft(None, (at_least, at_least))  # JPEG only: at 1/2, 1/4 or 1/8, never below
        with _one_large if image.width * image.height > LARGE_PIXELS else nullcontext():
            image.load()  # which turns a TIFF upright, so that its orientation is read after it
            corner = (image.width - 1, image.height - 1)
            if is_jpeg and not is_whole and (image.getpixel(corner) in _UNWRITTEN or lacks_end(content)):
                raise _PerhapsUnfinished("the end of the picture is missing")
            orientation = _read_orientation(image)
            colours, is_transparent = _to_rgb(image, deep)
            seen = {
                Remark.DEEP: image.mode in DEEP_MODES,
                Remark.DEEP_COLOUR: is_deep_colour,
                Remark.TRANSPARENT: is_transparent,
                Remark.SEVERAL: _has_several(image),
            }
            remarks += tuple(remark for remark, is_seen in seen.items() if is_seen)
            return finish(_Loaded(colours, size if is_jpeg else image.size, orientation, remarks))


def _have_same_pixels(contents: Sequence[bytes]) -> bool:
    first, *others = (_decode_raw(content) for content in contents)
    return all(first.shape == other.shape and first.tobytes() == other.tobytes() for other in others)


def _decode_raw(content: bytes) -> np.ndarray[Any, Any]:
    with open_header(io.BytesIO(content)) as image:
        return np.asarray(image)


def has_deep_colour(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has colours of 16 bits, which Pillow decodes to 8."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ()
    raw_mode = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return image.mode not in DEEP_MODES and isinstance(raw_mode, str) and ";16" in raw_mode


def _has_several(image: Image.Image) -> bool:
    try:
        if image.format == "ICO":
            return len(image.info["sizes"]) > 1
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first picture may be damaged
        return True


def _fit_square(image: Image.Image, orientation: int, size: int, fit: Fit) -> Pixels:
    """Make an image, not turned yet, an upright square [size, size, 3]."""
    # Resized first, turned after: to turn the small one is quicker.
    shown = _shown_size(image.size, size) if fit == "pad" else (size, size)
    square = image.resize(shown, Image.Resampling.BICUBIC, box=_kept_box(image.size, fit), reducing_gap=3.0)
    upright = np.asarray(_turn_upright(square, orientation))
    if fit != "pad":
        return upright
    padded = np.full((size, size, 3), GROUND, dtype=np.uint8)
    height, width = upright.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    padded[top : top + height, left : left + width] = upright
    return padded


def _shown_size(original: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height at which a whole image just fits into a square."""
    longest = max(original)
    width, height = (max(1, round(side * size / longest)) for side in original)
    return width, height


def _kept_box(original: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """Return the box that the square shows: the whole image, or the largest square in its middle."""
    width, height = original
    if fit != "crop":
        return (0, 0, width, height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata do not make the picture unreadable
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    bare = Image.fromarray(np.asarray(image))  # without metadata, which may be damaged
    bare.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(bare)


def _describe(error: BaseException, content: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format that can be read" if content else "empty file"
    if isinstance(error, Image.DecompressionBombError):
        return f"far {TOO_LARGE}"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it: scale it down"
    return " ".join(str(error).split()) or type(error).__name__
