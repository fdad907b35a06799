"""The real images that a GAN learns from: the train split, cut as a study of the same seed cuts it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from contract.decoding import FULL_RANGE, DeepRange, Fit
from contract.files import did_you_mean, printable
from contract.study_layout import StudyPaths
from contract.synthetic_images import DIGEST_LENGTH
from trainables.checks.known_copies import find_copies
from trainables.data.corrections import apply_corrections
from trainables.data.datasets import find_images, leave_out, list_names
from trainables.data.manifest import Manifest
from trainables.data.splits import split_listing
from trainables.data.views import draw_uniform
from trainables.images.preparation import Preparation, Recorded, prepare_images
from trainables.images.store import open_or_build

SPLIT_SIZE = 128
"""Image size in pixels at which near copies are looked for before the split, unless a study's is given."""

RARE = "rare"
"""Stands for the rare classes where names of classes are asked for."""

RARE_SHARE = 0.5
"""A class is rare if it has fewer train images than this share of the median class."""

HELD_SHARE, HELD_FROM = 0.1, 50
"""Share of a class's train images that the GAN never sees, so that its images can be judged by them; only of
classes with so many train images: a class of 40 needs all of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """The data set and the flags that decide its split, as for tune.py."""

    data: str
    seed: int
    fit: Fit
    cache_dir: Path
    cache_gb: float
    group_by: str | None = None
    min_images: int | None = None
    corrections: Path | None = None
    study: Path | None = None
    """Directory of a study whose split is taken; None = the split is cut anew, by the seed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainImages:
    """The images of the train split, and nothing of the others."""

    source: str
    fingerprint: str
    classes: tuple[str, ...]
    pixels: NDArray[np.uint8]
    """[N, S, S, 3]"""

    labels: NDArray[np.int64]
    """Positions in `classes`, [N]."""

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    is_held: NDArray[np.bool_]
    """Which images [N] the GAN does not see; they judge it."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @property
    def channels(self) -> int:
        """1 if all images are grey, else 3."""
        first = self.pixels[..., :1]
        return 1 if all((one == first[at]).all() for at, one in enumerate(self.pixels)) else 3

    @property
    def seen_digests(self) -> tuple[str, ...]:
        """Short digests, sorted, of the images that the GAN sees."""
        seen = {self.digests[at][:DIGEST_LENGTH] for at in np.flatnonzero(~self.is_held)}
        return tuple(sorted(seen))


def load_train_images(source: Source, *, image_size: int, console: Console | None) -> TrainImages:
    """Split the data set, and read the images of its train split at a size; the others are only hashed.

    Raises:
        ValueError: in one line, what is wrong with the data, the flags or the study.
    """
    manifest, found, described = _split(source, console)
    rows = manifest.indices("train")
    paths = tuple(manifest.paths[row] for row in rows)
    store = open_or_build(
        paths,
        storage_size=image_size,
        fit=source.fit,
        deep=DeepRange(*found.deep_range) if found.deep_range else FULL_RANGE,
        cache_dir=source.cache_dir,
        budget_gb=source.cache_gb,
    )
    return TrainImages(
        source=described,
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        pixels=store.take(np.arange(len(paths))),
        labels=manifest.labels[rows],
        paths=paths,
        digests=tuple(manifest.digests[row] for row in rows),
        is_held=hold_back(manifest.labels[rows], manifest.groups[rows], seed=source.seed),
    )


def _split(source: Source, console: Console | None) -> tuple[Manifest, Preparation, str]:
    """The images with their splits, by the same steps as a study takes; and what the data are called."""
    listing = find_images(source.data, cache_dir=source.cache_dir, group_by=source.group_by)
    if source.corrections:
        listing, _ = apply_corrections(listing, source.corrections)
    listing, _ = leave_out(listing, source.min_images)
    split_listing(listing, seed=source.seed, min_images=source.min_images)  # for its errors, before reading
    recorded, size = _read_study(source.study) if source.study else (None, SPLIT_SIZE)
    manifest, found = prepare_images(
        listing,
        fits=[source.fit],
        image_size=size,
        cache_dir=source.cache_dir,
        budget_gb=source.cache_gb,
        seed=source.seed,
        refuse_bad=False,
        min_images=source.min_images,
        study=recorded,
        find_copies=find_copies,
        console=console,
    )
    return manifest, found, source.data


def _read_study(folder: Path) -> tuple[Recorded, int]:
    """What a study says of its images, and its image size.

    Raises:
        ValueError: the folder holds no study.
    """
    paths = StudyPaths(folder)
    try:
        facts = json.loads(paths.facts.read_text(encoding="utf-8"))
        return Recorded(paths.manifest, tuple(facts["data"]["classes"])), int(facts["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--study: {printable(folder)} holds no study that can be read ({error}); pass the folder of "
            "one, as runs/NAME"
        ) from None


def hold_back(labels: NDArray[np.int64], groups: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Choose the train images [N] that the GAN does not see: HELD_SHARE of the classes that can spare them.

    Only images in a group of their own are chosen, so that no copy of them is seen.
    """
    order = draw_uniform(seed, "held back", 0, np.arange(len(labels)), 1)[:, 0]
    alone = np.bincount(groups)[groups] == 1
    held = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(np.bincount(labels)):
        free = np.flatnonzero((labels == label) & alone)
        if count >= HELD_FROM:
            chosen = free[np.argsort(order[free], kind="stable")]
            held[chosen[: round(HELD_SHARE * count)]] = True
    return held


def choose_classes(asked: Sequence[str], classes: Sequence[str], counts: NDArray[np.int64]) -> list[int]:
    """Positions of the classes to make images of: the named ones, the rare ones, or without a name all.

    Args:
        counts: train images of each class.

    Raises:
        ValueError: there is no such class, or none is rare.
    """
    if not asked:
        return list(range(len(classes)))
    if list(asked) == [RARE] and RARE not in classes:
        limit = RARE_SHARE * float(np.median(counts))
        rare = np.flatnonzero(counts < limit).tolist()
        if not rare:
            raise ValueError(
                f"--classes rare: no class has fewer than {limit:.0f} train images, half of the median "
                f"class; name some of {list_names(classes)}"
            )
        return rare
    position = {name: at for at, name in enumerate(classes)}
    for name in asked:
        if name not in position:
            hint = did_you_mean(name, classes) or f"there are {list_names(classes)}"
            raise ValueError(f"--classes: there is no class {name!r}; {hint}")
    return sorted({position[name] for name in asked})
