"""A study over a few small images, for trials that run without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from contract.messages import StudySettings
from trainables.data.manifest import Manifest
from trainables.data.synthetic import SyntheticTable
from trainables.images.decoding import digest_of

CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")
TRAIN_COUNTS = (6, 5, 4, 3, 2)
NUM_VAL = 10
SYNTHETIC_COUNTS = (0, 0, 0, 3, 4)


def make_small_study(root: Path) -> Path:
    """Five classes, unequally many training images each, 40 x 44 pixels of noise, brighter class by class."""
    random = np.random.default_rng(0)
    counts = (*TRAIN_COUNTS, *(2,) * 5)
    labels = np.repeat(np.tile(np.arange(5), 2), counts)
    paths = tuple(root / f"{number}.png" for number in range(len(labels)))
    for path, label in zip(paths, labels, strict=True):
        pixels = random.integers(0, 120, (40, 44, 3)) + 25 * label
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    splits = np.array(["train"] * sum(TRAIN_COUNTS) + ["val"] * NUM_VAL)
    manifest = Manifest(
        paths=paths,
        labels=labels.astype(np.int64),
        splits=splits,
        classes=CLASSES,
        contents="",
        fingerprint="",
        groups=np.arange(len(labels)),
        digests=("",) * len(labels),
    )
    manifest.write_csv(root / "data.csv")
    return root


def add_synthetic_images(study: Path) -> None:
    """Give the small study SYNTHETIC_COUNTS synthetic images, noise too."""
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), SYNTHETIC_COUNTS)
    paths = tuple(study / f"synthetic-{number}.png" for number in range(len(labels)))
    for path, label in zip(paths, labels, strict=True):
        pixels = random.integers(0, 120, (40, 40, 3)) + 25 * label
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    digests = tuple(digest_of(path.read_bytes()) for path in paths)
    SyntheticTable(paths=paths, labels=labels.astype(np.int64), digests=digests).write_csv(
        study / "synthetic.csv"
    )


def make_settings(study: Path, *, image_size: int) -> StudySettings:
    return StudySettings(
        study_directory=str(study),
        classes=CLASSES,
        weights="random",
        image_size=image_size,
        seed=0,
        metric="val_accuracy",
        maximize=True,
        cache_directory=str(study / "cache"),
        cache_gigabytes=1.0,
        num_trials=1,
        threads=1,
    )
