"""The study's images without torch: their list, thumbnails, sizes, and near-duplicates by perceptual hash."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from analysis.predictions import Array

MAX_DISTANCE = 12
"""Bits of 128 in which near-duplicates may differ."""

MIN_CORRELATION = 0.95
"""Of the two images at 16 x 16 grey pixels: a hash alone takes plain skies for each other."""

BLOCK = 512


@dataclass(frozen=True, eq=False)
class ImageTable:
    """data.csv: one entry an image, at the position of its id."""

    paths: tuple[Path, ...]
    labels: Array
    splits: Array

    def __len__(self) -> int:
        return len(self.paths)

    def of(self, split: str) -> Array:
        """Ids of a part."""
        return np.flatnonzero(self.splits == split)


@dataclass(frozen=True, eq=False)
class Looks:
    """What near-duplicates are found by, one row an image."""

    ids: Array
    hashes: Array
    """[images, 2] uint64: is each of 8 x 8 pixels darker than its right, and its lower, neighbour?"""

    greys: Array
    """[images, 256] float32, mean 0 and length 1."""

    sizes: Array
    """[images, 2] width and height in pixels."""

    unreadable: tuple[int, ...]
    """Ids of images that could not be opened now."""


def load_image_table(study_dir: Path) -> ImageTable:
    """Empty where the study has no data.csv yet."""
    try:
        with (study_dir / "data.csv").open(newline="", encoding="utf-8") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["id"]))
    except OSError:
        rows = []
    return ImageTable(
        paths=tuple(Path(row["path"]) for row in rows),
        labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
        splits=np.array([row["split"] for row in rows], dtype="U8"),
    )


def make_thumbnail(path: Path, *, side: int = 160) -> str | None:
    """A data URI; None where the file is gone or broken."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def look_at(table: ImageTable, ids: Sequence[int]) -> Looks:
    """Open each image once (about 2 ms each)."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(_look, [table.paths[number] for number in ids]))
    good = [(number, look) for number, look in zip(ids, looks, strict=True) if look is not None]
    return Looks(
        ids=np.array([number for number, _ in good], dtype=np.int64),
        hashes=np.array([look[0] for _, look in good], dtype=np.uint64).reshape(-1, 2),
        greys=np.array([look[1] for _, look in good], dtype=np.float32).reshape(-1, 256),
        sizes=np.array([look[2] for _, look in good], dtype=np.int64).reshape(-1, 2),
        unreadable=tuple(number for number, look in zip(ids, looks, strict=True) if look is None),
    )


def _look(path: Path) -> tuple[Array, Array, tuple[int, int]] | None:
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft("L", (64, 64))
            grey = image.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    nine = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(nine[:8, :8] < nine[:8, 1:]).ravel(), (nine[:8, :8] < nine[1:, :8]).ravel()])
    small = np.asarray(grey.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    return np.packbits(bits).view(np.uint64), small / max(float(np.linalg.norm(small)), 1e-6), size


def find_near_duplicates(looks: Looks) -> list[tuple[int, int]]:
    """Pairs of image ids that look the same: the same file, another size, format or slight crop."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(looks.ids), BLOCK):
        block = looks.hashes[start : start + BLOCK]
        different = np.bitwise_count(block[:, None, :] ^ looks.hashes[None, start:, :]).sum(axis=2)
        near = np.argwhere(different <= MAX_DISTANCE)
        near = near[near[:, 0] < near[:, 1]] + start
        alike = (looks.greys[near[:, 0]] * looks.greys[near[:, 1]]).sum(axis=1) >= MIN_CORRELATION
        pairs += [(int(looks.ids[a]), int(looks.ids[b])) for a, b in near[alike]]
    return pairs
