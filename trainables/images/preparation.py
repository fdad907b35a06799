"""Prepares a study's images: each is decoded once, unreadable ones are named, and the rest is split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract.decoding import Fit
from trainables.data.datasets import (
    ImageListing,
    copy_missing,
    is_url,
    leave_out,
    list_names,
    take_sample,
)
from trainables.data.manifest import Manifest, make_manifest, read_recorded_splits
from trainables.data.storage_faults import StorageFault, wait_out_faults
from trainables.data.views import storage_size
from trainables.images.cache_room import room_for
from trainables.images.decoding import ImageFact
from trainables.images.store import ImageStore, open_or_build


class Recorded(NamedTuple):
    """What a study that exists says of its images."""

    manifest: Path
    """Its data.csv."""

    classes: tuple[str, ...]


NAMED = 5
"""Unreadable images that a message names; the others are counted."""


def prepare_images(
    listing: ImageListing,
    *,
    fits: Iterable[Fit],
    image_size: int,
    cache_dir: Path,
    budget_gb: float,
    seed: int,
    refuse_bad: bool,
    min_images: int | None = None,
    study: Recorded | None = None,
    console: Console | None = None,
) -> tuple[Manifest, str]:
    """Decode and split the images of a study: (manifest, a line about those left out or "").

    Args:
        fits: how the backbones want images made square; a store is built for each way.
        budget_gb: most disk that the whole cache may use, copies of a bucket included.
        min_images: leave out classes with fewer readable images; None refuses what cannot be validated.
        study: what the study that is continued says of its images, whose split is kept.
        console: shows the progress of copying and decoding.

    Raises:
        ValueError: images cannot be read and `refuse_bad`, or what is left cannot be split.
    """
    stores = open_images(
        listing,
        fits=fits,
        image_size=image_size,
        cache_dir=cache_dir,
        budget_gb=budget_gb,
        console=console,
    )
    line = describe_unreadable(listing.paths, stores[0].facts)
    if line and refuse_bad:
        raise ValueError(f"{line}. Remove or repair them, or leave them out with --bad-images skip")
    return _make_manifest(listing, stores[0], seed=seed, min_images=min_images, study=study), line


def open_images(
    listing: ImageListing,
    *,
    fits: Iterable[Fit],
    image_size: int,
    cache_dir: Path,
    budget_gb: float,
    console: Console | None = None,
) -> list[ImageStore]:
    """Decode the images of a listing, a bucket's after copying them: a store for each different fit."""
    if is_url(listing.source):
        with show_progress(console, total=len(listing.paths), what="copying images") as copied:
            copy_missing(
                listing.source,
                listing.paths,
                cache_dir=cache_dir,
                room_for=partial(room_for, cache_dir=cache_dir, budget_gb=budget_gb),
                progress=copied,
            )
    stores = []
    for fit in dict.fromkeys(fits):
        with show_progress(console, total=len(listing.paths)) as progress:
            stores.append(
                open_or_build(
                    listing.paths,
                    storage_size=storage_size(image_size, fit),
                    fit=fit,
                    cache_dir=cache_dir,
                    budget_gb=budget_gb,
                    progress=progress,
                )
            )
    return stores


def _make_manifest(
    listing: ImageListing, store: ImageStore, *, seed: int, min_images: int | None, study: Recorded | None
) -> Manifest:
    """Leave out the unreadable images, and the classes that have become too small, and split the rest."""
    lost = sorted(set(listing.labels.tolist()) - set(listing.labels[store.readable].tolist()))
    if lost and min_images is None:
        raise ValueError(
            f"{listing.source}: no readable image of"
            f" {list_names([listing.classes[label] for label in lost])}; repair them, remove the class,"
            " or pass --min-images 1 to leave it out"
        )
    kept, keep = leave_out(listing, min_images, readable=store.readable)
    digests = [store.digests[number] for number in np.flatnonzero(keep)]
    recorded = read_recorded_splits(study.manifest, digests, study.classes) if study else None
    return make_manifest(kept, digests, seed=seed, may_lack_val=min_images is not None, recorded=recorded)


@contextmanager
def show_progress(
    console: Console | None, *, total: int, what: str = "decoding images"
) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar from the first image on: not at all where all images are known."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=console is None) as bar:
        task = bar.add_task(what, total=total, visible=False)
        yield lambda done, _: bar.update(task, completed=done, visible=True)


def describe_unreadable(paths: Sequence[Path], facts: Sequence[ImageFact]) -> str:
    """Say how many images cannot be read, which, and why; empty if all can."""
    bad = [f"{path} ({fact.reason})" for path, fact in zip(paths, facts, strict=True) if not fact.ok]
    if not bad:
        return ""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{len(bad)} of {len(facts)} images cannot be read: {'; '.join(bad[:NAMED])}{more}"


def median_pixels(paths: Sequence[Path]) -> int:
    """Median height x width of up to 100 images, evenly spread over the list; unreadable ones do not count.

    Raises:
        ValueError: none of them can be read.
    """
    areas = []
    for path in take_sample(paths):
        try:
            areas.append(wait_out_faults(partial(_read_area, path)))
        except StorageFault:
            raise
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
    if not areas:
        raise ValueError(f"none of the images can be read, {paths[0]} for one: are these image files?")
    return int(median(areas))


def _read_area(path: Path) -> int:
    with Image.open(path) as image:
        return image.width * image.height
