"""Training and serving see the same pixels, whatever mode an image file has."""

from __future__ import annotations

import base64
import json
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.tracking.served_model import ServedClassifier
from contract.decoding import FULL_RANGE, DeepRange, Fit
from contract.model_layout import ModelPaths
from trainables.data.augmentation import evaluation_view
from trainables.images.decoding import decode_files

SIZE, STORAGE = 16, 20
WIDTH, HEIGHT = 70, 50


class Pixels(torch.nn.Module):
    """A classifier whose probabilities are its input, one class a pixel and channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


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


def write_image(folder: Path, kind: str) -> Path:
    """An image file of one of KINDS."""
    image, suffix, options = KINDS[kind]()
    path = folder / f"image.{suffix}"
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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "pixels.pt2"
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    torch.export.save(
        torch.export.export(Pixels(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes), path
    )
    return path


DEEP_RANGES = {
    "12 bits of 16": DeepRange(0, 4095),
    "I of 8 bits": DeepRange(0, 255),
    "F up to 255": DeepRange(float_white=255),
    "F of degrees": DeepRange(float_black=-10, float_white=40),
}
"""What was measured in the data sets of these images."""


def serve(program: Path, folder: Path, content: bytes, fit: Fit, deep: DeepRange) -> np.ndarray:
    """The pixels that the served model's network sees, [3, SIZE, SIZE] in 0..1."""
    export = ModelPaths(folder / "model")
    export.directory.mkdir()
    export.program.symlink_to(program)
    names = [str(number) for number in range(3 * SIZE * SIZE)]
    card = {"classes": names, "image_size": SIZE, "storage_size": STORAGE, "fit": fit}
    card["deep_range"] = [] if deep == FULL_RANGE else list(astuple(deep))
    export.card.write_text(json.dumps(card), encoding="utf-8")
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(export.directory)}))
    values = [content, base64.b64encode(content).decode("ascii")]
    first, second = model.predict(None, pd.DataFrame({"image": values}))["probabilities"]
    assert first == second
    return np.array([first[name] for name in names]).reshape(3, SIZE, SIZE)


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_same_pixels_in_training_and_serving(
    kind: str, fit: Fit, program: Path, tmp_path: Path
) -> None:
    path = write_image(tmp_path, kind)
    deep = DEEP_RANGES.get(kind, FULL_RANGE)
    stored, (fact,) = decode_files([path], STORAGE, fit, deep)
    trained = evaluation_view(torch.from_numpy(stored), size=SIZE, fit=fit)[0].numpy()

    served = serve(program, tmp_path, path.read_bytes(), fit, deep)

    assert fact.ok
    assert np.ptp(stored) > 60  # and over much of the range
    assert len(np.unique(stored)) > 1  # a gradient arrived, not one clipped colour
    np.testing.assert_array_equal(np.round(255 * served), np.round(255 * trained))
