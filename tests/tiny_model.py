"""A model's directory with a program that tells red, green and blue: real, and exported in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from contract.model_layout import ModelPaths

SIDE = 16
CLASSES = ("red", "green", "blue")
SETS = {f"0.{percent}": 1 - percent / 100 for percent in range(50, 100)}


class Channels(torch.nn.Module):
    """A classifier of red, green and blue."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(2, 3)) * self.sharpness).softmax(dim=1)


def write_tiny_model(folder: Path, *, sharpness: float = 20.0, side: int = SIDE, **card: Any) -> Path:
    """Write the program and its card; `card` changes entries of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, batch = ModelPaths(folder), {0: torch.export.Dim("images", min=1)}
    images = torch.rand(2, 3, side, side)
    program = torch.export.export(Channels(sharpness), (images,), dynamic_shapes={"images": batch})
    torch.export.save(program, paths.program)
    facts = {"classes": CLASSES, "image_size": side, "storage_size": side, "fit": "crop", "study": "tiny"}
    facts["thresholds"] = {
        "prediction_sets": SETS,
        "unknown": {"score": "probability", "threshold": 0.5},
        "operating_point": None,
    }
    paths.card.write_text(json.dumps(facts | card), encoding="utf-8")
    return folder


def write_photo(path: Path, color: str | tuple[int, int, int] = "red", *, side: int = SIDE) -> Path:
    """Write an image of one colour, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), color).save(path)
    return path


def write_noise(path: Path, *, seed: int, side: int = 64) -> Path:
    """Write an image of noise with a tint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 160, (side, side, 3))
    pixels[..., seed % 3] += 95
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path
