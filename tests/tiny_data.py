"""A few generated images and the settings of a study on them: what a trial needs without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contract.messages import LeasedTrial, StudySettings
from trainables.data.datasets import find_images
from trainables.data.views import Fit
from trainables.images.preparation import prepare_images
from trainables.model.backbones import BACKBONES
from trainables.model.weights import locate_weights

CLASSES = ("blue", "green", "red")
CHANNELS = {"red": 0, "green": 1, "blue": 2}


def write_images(folder: Path, *, images_per_class: int = 12, side: int = 40) -> Path:
    """Noise tinted in the class's colour: easy to learn, impossible to read off one pixel."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(images_per_class):
            pixels = random.integers(0, 160, (side, side, 3))
            pixels[..., CHANNELS[name]] += 95
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


def make_settings(
    folder: Path, *, source: Path | None = None, fits: tuple[Fit, ...] = ("crop", "squash"), **changes: Any
) -> StudySettings:
    """Settings of a study in `folder`, whose images are decoded and split; by default written too."""
    study = folder / "study"
    study.mkdir(parents=True)
    image_size = int(changes.get("image_size", 32))
    manifest, _ = prepare_images(
        find_images(str(source or write_images(folder / "images")), cache_dir=folder / "cache"),
        fits=fits,
        image_size=image_size,
        cache_dir=folder / "cache",
        budget_gb=1.0,
        seed=0,
        refuse_bad=True,
    )
    manifest.write_csv(study / "data.csv")
    packaged = [row for row in BACKBONES.values() if row.package]
    settings: dict[str, Any] = {
        "study_directory": str(study),
        "classes": manifest.classes,
        "weights": "auto",
        "backbone_weights": tuple(locate_weights(row, "auto") for row in packaged),
        "image_size": image_size,
        "seed": 0,
        "metric": "val_accuracy",
        "maximize": True,
        "cache_directory": str(folder / "cache"),
        "cache_gigabytes": 1.0,
        "num_trials": 16,
        "threads": 1,
    }
    return StudySettings(**settings | changes)


def make_lease(number: int = 0, *, attempt: int = 1, done_epochs: int = 0, **config: Any) -> LeasedTrial:
    """One trial of lite0, as a lease holds it."""
    proposal = {"backbone": "lite0", "max_epochs": 2, "batch_size": 8, "learning_rate": 3e-3, **config}
    return LeasedTrial(trial=number, attempt=attempt, config=proposal, done_epochs=done_epochs)
