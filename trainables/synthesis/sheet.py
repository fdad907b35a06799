"""Draws the sample sheet: for each class a few real images and, beside them, generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from contract.files import printable
from trainables.synthesis.features import Pixels

REAL, MADE = 3, 8
"""Real and generated images of a class."""

MOST_CLASSES = 20
"""Rows of a sheet; of more classes the first ones asked for are drawn."""

GAP, LINE = 8, 13
"""Pixels between real and generated images, and the height of a class's name."""


def pick_real(labels: NDArray[np.int64], classes: Sequence[int]) -> NDArray[np.int64]:
    """Positions of the first REAL images of each class, one row a class; repeated where there are fewer."""
    return np.stack([np.resize(np.flatnonzero(labels == label), REAL) for label in classes])


def draw_sheet(names: Sequence[str], real: Pixels, made: Pixels) -> Image.Image:
    """Draw a row for each class: name, real images [C, REAL, S, S, 3], made ones [C, MADE, S, S, 3]."""
    side = real.shape[2]
    row = side + LINE
    sheet = Image.new("RGB", ((REAL + MADE) * side + GAP, len(names) * row), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for at, name in enumerate(names):
        draw.text((0, at * row), f"{printable(name)}: {REAL} real, then generated", "black", font)
        for column, picture in enumerate([*real[at], *made[at]]):
            left = column * side + (GAP if column >= REAL else 0)
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, at * row + LINE))
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the content of a PNG file."""
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
