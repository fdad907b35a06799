"""Exports tiny models, whose answers follow from the mean colour of an image, as complete directories."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contract.model_layout import ModelPaths
from trainables.export.model_directory import write_companions

CLASSES = ("red", "green", "blue")
SIZE = 16
UNKNOWN = {"score": "both", "threshold": 0.5}
"""Rule by which dark images are unknown: the score is the brightest value."""


class Channels(torch.nn.Module):
    """A classifier of red, green and blue."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(2, 3)) * 20).softmax(dim=1)


class Brightness(torch.nn.Module):
    """A score that is low for dark images, whatever their class."""

    def forward(self, images: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        return images.amax(dim=(1, 2, 3)) + 0 * probabilities.sum(dim=1)


def write_tiny_model(folder: Path, *, size: int = SIZE, **card: Any) -> ModelPaths:
    """Write a model of red, green and blue that tells unknown images; `card` changes entries of its card."""
    model, batch = ModelPaths(folder), {0: torch.export.Dim("images", min=1)}
    folder.mkdir(parents=True, exist_ok=True)
    images, probabilities = torch.rand(2, 3, size, size), torch.rand(2, len(CLASSES))
    program = torch.export.export(Channels(), (images,), dynamic_shapes={"images": batch})
    torch.export.save(program, model.program)
    shapes = {"images": batch, "probabilities": batch}
    scorer = torch.export.export(Brightness(), (images, probabilities), dynamic_shapes=shapes)
    torch.export.save(scorer, model.unknown)
    thresholds = {
        "prediction_sets": {"0.50": 0.6, "0.90": 0.2, "0.99": 0.0},
        "unknown": UNKNOWN,
        "operating_point": None,
    }
    facts = {
        "classes": CLASSES,
        "image_size": size,
        "storage_size": size,
        "fit": "crop",
        "deep_range": [],
        "study": "colours",
        "rule": "single",
        "scores": {},
        "thresholds": thresholds,
    }
    model.card.write_text(json.dumps(facts | card), encoding="utf-8")
    write_companions(model, program.module())
    model.write_checksums()
    return model


def encode(colour: str, *, side: int = SIZE, kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, format=kind)
    return buffer.getvalue()
