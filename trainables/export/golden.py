"""Golden images: pictures by which a machine is checked to answer as the one did that exported the model."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from contract.files import to_json
from contract.model_card import ModelCard
from contract.model_layout import ModelPaths

SIDE = 160
"""Shorter side of a golden image in pixels."""


def make_golden_images() -> dict[str, bytes]:
    """Make eight image files by their names, always the same: one for each way in which a decoder may differ.

    They are of several modes and formats; one is turned by its metadata, one has more than 8 bits, two are
    partly transparent, one has two frames. None is compressed with loss but the JPEG, of which decoders may
    differ by rounding.
    """
    images = {
        "colour.png": (_draw(0), {}),
        "turned.jpg": (_draw(1, width=240), {"quality": 92, "exif": _turned()}),
        "grey.png": (_draw(2).convert("L"), {}),
        "transparent.png": (_with_alpha(_draw(3)), {}),
        "palette.png": (_draw(4, width=208).quantize(64), {"transparency": 0}),
        "deep.png": (_deep(5), {}),
        "small.bmp": (_draw(6).resize((37, 23)), {}),
        "frames.gif": (_draw(7).quantize(64), {"save_all": True, "append_images": [_draw(8).quantize(64)]}),
    }
    found = {}
    for name, (image, options) in images.items():
        buffer = io.BytesIO()
        image.save(buffer, format={"jpg": "JPEG"}.get(name[-3:], name[-3:].upper()), **options)  # type: ignore[arg-type]
        found[name] = buffer.getvalue()
    return found


def write_golden(
    target: ModelPaths,
    program: Callable[[Tensor], Tensor],
    *,
    photos: Mapping[str, Path] | None = None,
) -> None:
    """Write golden images with the program's probabilities into the directory of a model that has its card.

    Args:
        program: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes].
        photos: files that are copied in beside the generated ones, by their names there.
    """
    contents = make_golden_images() | {name: path.read_bytes() for name, path in (photos or {}).items()}
    card = ModelCard.load(target)
    images = np.stack([card.read_image(content) for content in contents.values()])
    with torch.inference_mode():
        probabilities = program(torch.from_numpy(images)).float().tolist()
    target.golden.mkdir()
    for name, content in contents.items():
        (target.golden / name).write_bytes(content)
    rows = [{"file": name, "probabilities": row} for name, row in zip(contents, probabilities, strict=True)]
    target.golden_facts.write_text(to_json({"images": rows}), encoding="utf-8")


def _draw(seed: int, *, width: int = SIDE) -> Image.Image:
    """Draw blots of colour with edges and some noise, so that resizing and orientation both tell."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:width] / SIDE
    picture = np.empty((SIDE, width, 3))
    for channel in range(3):
        across, down, phase = rng.uniform(2, 9, size=3)
        waves = np.sin(across * columns + phase) + np.cos(down * rows * columns + phase)
        row, column, radius = rng.uniform(0.2, 0.8, size=3)
        blot = (rows - row) ** 2 + (columns - column) ** 2 < (0.4 * radius) ** 2
        picture[..., channel] = 110 + 40 * waves + 60 * blot
    picture += rng.normal(0, 6, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def _with_alpha(image: Image.Image) -> Image.Image:
    ramp = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
    image.putalpha(Image.fromarray(ramp))
    return image


def _deep(seed: int) -> Image.Image:
    grey = np.asarray(_draw(seed).convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)
