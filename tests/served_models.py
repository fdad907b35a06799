"""A tiny exported model, written in a second: an untrained network behind a real card."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contract.model_layout import ModelPaths

SIZE, STORED = 32, 36
CLASSES = ("blue", "green", "red")


class TintNet(nn.Module):
    """Tells the strongest colour of an image; `sharpness` makes versions with other probabilities."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(sharpness * torch.eye(3).flip(0))

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(images.mean((2, 3)) @ self.weight.T, dim=1)


def write_tiny_model(directory: Path, *, sharpness: float = 8.0, **facts: Any) -> ModelPaths:
    """Write card and program; a directory that exists gets the new content file by file, as exports do."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = ModelPaths(directory)
    example = (torch.rand(2, 3, SIZE, SIZE),)
    program = torch.export.export(
        TintNet(sharpness).eval(), example, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    aside = directory / ".aside.pt2"
    torch.export.save(program, aside)
    aside.rename(paths.program)
    card = {
        "classes": list(CLASSES),
        "image_size": SIZE,
        "storage_size": STORED,
        "fit": "crop",
        "thresholds": {
            "prediction_sets": {"0.90": 0.2, "0.95": 0.1},
            "unknown": None,
            "operating_point": None,
        },
        "study": "tiny",
    }
    paths.card.write_text(json.dumps(card | facts), encoding="utf-8")
    return paths


def make_file(seed: int = 0, *, side: int = 48, format: str = "JPEG", mode: str = "RGB") -> bytes:
    """Make an image file of noise tinted in one colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (side, side, 3))
    pixels[..., seed % 3] += 95
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, format)
    return file.getvalue()
