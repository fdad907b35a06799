"""Exports tiny models, whose answers follow from the mean colour of an image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from contract.model_layout import ModelPaths
from trainables.export.model_directory import write_companions

CLASSES = ("red", "green", "blue")
SIZE, STORED = 16, 18
SETS = {f"0.{percent}": 1 - percent / 100 for percent in range(50, 100)}
BY_BRIGHTNESS = {"score": "both", "threshold": 0.5}
"""Rule by which dark images are unknown, for a model with a scorer: its score is the brightest value."""


class Channels(torch.nn.Module):
    """A classifier of red, green and blue."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(2, 3)) * self.sharpness).softmax(dim=1)


class Brightness(torch.nn.Module):
    """A score that is low for dark images, whatever their class."""

    def forward(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        return images.amax(dim=(1, 2, 3)) + 0 * probabilities.sum(dim=1)


def write_tiny_model(
    folder: Path, *, sharpness: float = 20.0, with_scorer: bool = False, **card: Any
) -> ModelPaths:
    """Write program and card; in a folder that has a model each file is replaced, as exports do.

    Args:
        sharpness: makes versions with other probabilities.
        with_scorer: tell unknown images by BY_BRIGHTNESS, and write the program for it.
        card: changes entries of the card.
    """
    model = ModelPaths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, probabilities = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, len(CLASSES))
    _save(model.program, Channels(sharpness), images=images)
    if with_scorer:
        _save(model.unknown, Brightness(), images=images, probabilities=probabilities)
    by_probability = {"score": "probability", "threshold": 0.5}
    facts = {
        "classes": CLASSES,
        "image_size": SIZE,
        "storage_size": STORED,
        "fit": "crop",
        "deep_range": [],
        "study": "tiny",
        "rule": "single",
        "scores": {},
        "thresholds": {
            "prediction_sets": SETS,
            "unknown": BY_BRIGHTNESS if with_scorer else by_probability,
            "operating_point": None,
        },
    }
    model.card.write_text(json.dumps(facts | card), encoding="utf-8")
    return model


def write_whole_model(folder: Path) -> ModelPaths:
    """Write a model's directory with all that belongs in it."""
    model = write_tiny_model(folder, with_scorer=True)
    write_companions(model, torch.export.load(model.program).module())
    model.write_checksums()
    return model


def _save(path: Path, module: torch.nn.Module, **inputs: torch.Tensor) -> None:
    batch = {0: torch.export.Dim("images", min=1)}
    program = torch.export.export(
        module.eval(), tuple(inputs.values()), dynamic_shapes=dict.fromkeys(inputs, batch)
    )
    aside = path.with_name(f".{path.name}")
    torch.export.save(program, aside)
    aside.rename(path)


def encode(colour: str, *, side: int = STORED, kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, format=kind)
    return buffer.getvalue()


def make_noise(seed: int = 0, *, side: int = 48, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image file of noise, tinted red, green or blue in turn."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (side, side, 3))
    pixels[..., seed % 3] += 95
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


def write_photo(path: Path, colour: str | tuple[int, int, int] = "red", *, side: int = STORED) -> Path:
    """Write an image of one colour, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)
    return path


def write_noise(path: Path, *, seed: int, side: int = 64) -> Path:
    """Write an image of noise, tinted red, green or blue in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(make_noise(seed, side=side, kind="PNG"))).save(path)
    return path
