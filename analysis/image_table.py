"""Reads data.csv: every image of a study with its label, its split and its group."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.predictions import Array
from contract.study_layout import StudyPaths

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Columns of data.csv: each image stands at the position of its id."""

    paths: tuple[Path, ...]
    labels: Array
    splits: Array
    groups: Array
    """Images with an equal number belong together: copies, near copies, pictures of one patient or object."""

    def __len__(self) -> int:
        return len(self.paths)

    def of(self, split: str) -> Array:
        """Ids of a split's images."""
        return np.flatnonzero(self.splits == split)

    @cached_property
    def num_groups(self) -> int:
        return len(np.unique(self.groups))

    @property
    def is_grouped(self) -> bool:
        """True if any two images belong together."""
        return self.num_groups < len(self)

    def leaked(self, split: str) -> Array:
        """Ids of a split's images, validation or test, whose group has images in training, too."""
        ids = self.of(split)
        found: Array = ids[np.isin(self.groups[ids], self.groups[self.of("train")])]
        return found


def load_image_table(study_dir: Path) -> ImageTable:
    """Read data.csv; an empty table where the study has none yet.

    Older studies have no column `group`: each of their images is its own group.
    """
    try:
        with StudyPaths(study_dir).manifest.open(
            newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["id"]))
    except OSError:
        rows = []
    has_groups = bool(rows) and rows[0].get("group") is not None
    groups = [int(row["group"]) for row in rows] if has_groups else range(len(rows))
    return ImageTable(
        paths=tuple(Path(row["path"]) for row in rows),
        labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
        splits=np.array([row["split"] for row in rows], dtype="U8"),
        groups=np.array(groups, dtype=np.int64),
    )


def load_groups(study_dir: Path) -> Array | None:
    """Read the group of each image alone, at the position of its id; None where each image is its own."""
    try:
        with StudyPaths(study_dir).manifest.open(
            newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if "group" not in header:
                return None
            number, group = header.index("id"), header.index("group")
            pairs = sorted((int(row[number]), int(row[group])) for row in reader)
    except (OSError, ValueError, IndexError):
        return None
    groups = np.array([group for _, group in pairs], dtype=np.int64)
    return groups if len(np.unique(groups)) < len(groups) else None
