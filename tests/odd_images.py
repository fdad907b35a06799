"""Image files of every mode and orientation, with the same gradients in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 70, 50


def colours() -> Image.Image:
    """Gradients that differ from channel to channel and from side to side."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    channels = np.stack([across, down, (across + 1 - down) / 2], axis=2)
    return Image.fromarray((255 * channels).astype(np.uint8))


def deep_grey(largest: float, kind: Any) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return Image.fromarray(((0.7 * across + 0.3 * down) * largest).astype(kind))


def faded(mode: str) -> Image.Image:
    """Colours that become transparent towards the right."""
    image = colours().convert(mode)
    image.putalpha(deep_grey(255, np.uint8))
    return image


def write_image(folder: Path, kind: str, *, name: str = "image") -> Path:
    """Write an image file of one of KINDS."""
    image, suffix, options = KINDS[kind]()
    path = folder / f"{name}.{suffix}"
    image.save(path, **options)
    return path


def oriented(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


KINDS: dict[str, Any] = {
    "1": lambda: (colours().convert("1"), "png", {}),
    "L": lambda: (colours().convert("L"), "png", {}),
    "LA": lambda: (faded("L"), "png", {}),
    "P": lambda: (colours().convert("P"), "gif", {}),
    "P with transparency": lambda: (colours().convert("P"), "png", {"transparency": 30}),
    "RGB": lambda: (colours(), "png", {}),
    "RGB with transparency": lambda: (colours(), "png", {"transparency": (0, 0, 127)}),
    "RGBA": lambda: (faded("RGB"), "png", {}),
    "RGBA of WebP": lambda: (faded("RGB"), "webp", {"lossless": True}),
    "CMYK": lambda: (colours().convert("CMYK"), "jpg", {}),
    "YCbCr": lambda: (colours().convert("YCbCr"), "tiff", {}),
    "LAB": lambda: (Image.merge("LAB", colours().split()), "tiff", {}),
    "I;16": lambda: (deep_grey(65535, np.uint16), "png", {}),
    "I;16 of TIFF": lambda: (deep_grey(65535, np.uint16), "tiff", {}),
    "12 bits of 16": lambda: (deep_grey(4095, np.uint16), "png", {}),
    "I": lambda: (deep_grey(65535, np.int32), "tiff", {}),
    "I of 8 bits": lambda: (deep_grey(255, np.int32), "tiff", {}),
    "F": lambda: (deep_grey(1.0, np.float32), "tiff", {}),
    "F of degrees": lambda: (deep_grey(40.0, np.float32), "tiff", {}),
    "F up to 255": lambda: (deep_grey(255.0, np.float32), "tiff", {}),
    **{
        f"turned {number}, {suffix}": lambda number=number, suffix=suffix: (
            colours(),
            suffix,
            oriented(number),
        )
        for number in range(2, 9)
        for suffix in ("jpg", "tiff")
    },
}
