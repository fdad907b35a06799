"""Prepares a study's images: each is decoded once, unreadable ones are named, and the rest is split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract.buckets import is_url
from contract.decoding import FULL_RANGE, LARGE_PIXELS, DeepRange, Fit, Remark
from contract.files import printable
from trainables.data.datasets import ImageListing, Note, copy_missing, leave_out, list_names
from trainables.data.groups import take_pairs
from trainables.data.manifest import Manifest, make_manifest, read_recorded_splits
from trainables.data.synthetic import SyntheticTable
from trainables.data.views import storage_size
from trainables.images.cache_room import room_for
from trainables.images.decoding import ImageFact
from trainables.images.store import ImageStore, open_or_build
from trainables.images.survey import find_deep_range, measure_deep_range


class FindCopies(Protocol):
    """Finds the pairs of rows of an image store that show the same picture; None if there are too many."""

    def __call__(
        self, store: ImageStore, *, progress: Callable[[int, int], None] | None
    ) -> list[tuple[int, int]] | None: ...


class Recorded(NamedTuple):
    """What a study that exists says of its images."""

    manifest: Path
    """Its data.csv."""

    classes: tuple[str, ...]


NAMED = 5
"""Unreadable images that a message names; the others are counted."""

MUCH_LEFT_OUT = 0.03
"""Share of unreadable images above which a search warns of them."""

TINY = 4
"""Pixels below which an image's side is worth a line."""

LONG = 2.0
"""Median of long by short side above which a crop to the middle is warned of."""

_ODD = {
    Remark.SEVERAL: "hold several pictures: the first is used, of an icon the largest",
    Remark.TRANSPARENT: "are transparent in places: shown on white",
    Remark.DEEP: "have more than 8 bits: black to white is RANGE in all of them",
    Remark.DEEP_COLOUR: "have colours of 16 bits, of which the upper 8 are used",
    Remark.SHORTENED: "lack the end of their file, but nothing of the picture, and are used",
    Remark.CLEANED: "can only be read without the metadata of their file, and are used so",
}


@dataclass(frozen=True)
class Preparation:
    """What the decoding of a study's images found out, beside the manifest."""

    left_out: str = ""
    """A line about the images that cannot be read; empty if all can."""

    share_left_out: float = 0.0
    notes: tuple[Note, ...] = ()
    """What is odd among the images that are used."""

    deep_range: tuple[float, ...] = ()
    """Values of the DeepRange of a set with images of more than 8 bits; empty for all others."""

    synthetic: SyntheticTable | None = None
    """Synthetic images that train beside the others; None without --synthetic."""

    @property
    def complaints(self) -> list[str]:
        """Lines on what is left out; the second where it is so much that something else may be wrong."""
        if not self.left_out:
            return []
        warning = (
            f"WARNING: {self.share_left_out:.0%} of the images cannot be read and are left out: were they "
            "copied whole, and are they images? --bad-images refuse stops here instead"
        )
        return [f"skipping {self.left_out}", *([warning] if self.share_left_out > MUCH_LEFT_OUT else [])]


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
    find_copies: FindCopies | None = None,
    console: Console | None = None,
) -> tuple[Manifest, Preparation]:
    """Decode and split the images of a study.

    Args:
        fits: how the backbones want images made square; a store is built for each way.
        budget_gb: most disk that the whole cache may use, copies of a bucket included.
        min_images: leave out classes with fewer readable images; None refuses what cannot be validated.
        study: what the study that is continued says of its images, whose split is kept.
        find_copies: finds pairs of rows of a store that show the same; None looks for equal files only.
        console: shows the progress of copying and decoding.

    Raises:
        ValueError: images cannot be read and `refuse_bad`, or what is left cannot be split.
    """
    stores, deep = open_images(
        listing,
        fits=fits,
        image_size=image_size,
        cache_dir=cache_dir,
        budget_gb=budget_gb,
        console=console,
    )
    facts = stores[0].facts
    line = describe_unreadable(listing.paths, facts)
    if line and refuse_bad:
        raise ValueError(f"{line}. Remove or repair them, or leave them out with --bad-images skip")
    pairs: Sequence[tuple[int, int]] | None = ()
    if find_copies:
        with show_progress(console, total=len(listing.paths), what="looking for copies") as progress:
            pairs = find_copies(stores[0], progress=progress)
    notes = describe_odd(listing.paths, facts, deep=deep or FULL_RANGE)
    if pairs is None:
        notes.append(note_uncompared(len(facts)))
    manifest = _make_manifest(listing, stores[0], pairs or (), seed=seed, min_images=min_images, study=study)
    return manifest, Preparation(
        left_out=line,
        share_left_out=1 - float(np.mean(stores[0].readable)),
        notes=tuple(notes),
        deep_range=astuple(deep) if deep else (),
    )


def note_uncompared(number: int) -> Note:
    """Note that there are too many images to look for near copies."""
    text = f"among {number:,} images only equal files are kept together, near copies are not looked for"
    return Note("copy", text, number)


def open_images(
    listing: ImageListing,
    *,
    fits: Iterable[Fit],
    image_size: int,
    cache_dir: Path,
    budget_gb: float,
    console: Console | None = None,
) -> tuple[list[ImageStore], DeepRange | None]:
    """Decode the images of a listing, a bucket's after copying them.

    Returns:
        A store for each different fit, and the range of the images of more than 8 bits, if there are any.
    """
    if is_url(listing.source):
        with show_progress(console, total=len(listing.paths), what="copying images") as copied:
            copy_missing(
                listing.source,
                listing.paths,
                cache_dir=cache_dir,
                room_for=partial(room_for, cache_dir=cache_dir, budget_gb=budget_gb),
                progress=copied,
            )

    def open_stores(deep: DeepRange) -> list[ImageStore]:
        stores = []
        for fit in dict.fromkeys(fits):
            with show_progress(console, total=len(listing.paths)) as progress:
                stores.append(
                    open_or_build(
                        listing.paths,
                        storage_size=storage_size(image_size, fit),
                        fit=fit,
                        deep=deep,
                        cache_dir=cache_dir,
                        budget_gb=budget_gb,
                        progress=progress,
                    )
                )
        return stores

    deep = find_deep_range(listing.paths)
    stores = open_stores(deep or FULL_RANGE)
    if deep is None and (missed := _list_deep(listing.paths, stores[0].facts)):
        deep = measure_deep_range(missed)  # too few for the sample that was looked at first
        stores = open_stores(deep)
    return stores, deep


def _list_deep(paths: Sequence[Path], facts: Sequence[ImageFact]) -> list[Path]:
    return [path for path, fact in zip(paths, facts, strict=True) if Remark.DEEP in fact.remarks]


def _make_manifest(
    listing: ImageListing,
    store: ImageStore,
    pairs: Sequence[tuple[int, int]],
    *,
    seed: int,
    min_images: int | None,
    study: Recorded | None,
) -> Manifest:
    """Leave out the unreadable images, and the classes that have become too small, and split the rest."""
    names = listing.renamed or listing.classes
    lost = {names[label] for label in set(listing.labels.tolist())} - {""}
    lost -= {names[label] for label in set(listing.labels[store.readable].tolist())}
    if lost and min_images is None:
        raise ValueError(
            f"{listing.source}: no readable image of {list_names(sorted(lost))}; repair them, remove the"
            " class, or pass --min-images 1 to leave it out"
        )
    kept, keep = leave_out(listing, min_images, readable=store.readable)
    return make_manifest(
        kept,
        [store.digests[number] for number in np.flatnonzero(keep)],
        seed=seed,
        near_copies=take_pairs(pairs, keep),
        min_images=min_images,
        recorded=lambda digests: (
            read_recorded_splits(study.manifest, digests, study.classes) if study else None
        ),
    )


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
    bad = [
        f"{printable(path)} ({fact.reason})" for path, fact in zip(paths, facts, strict=True) if not fact.ok
    ]
    if not bad:
        return ""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{len(bad)} of {len(facts)} images cannot be read: {'; '.join(bad[:NAMED])}{more}"


def describe_odd(
    paths: Sequence[Path], facts: Sequence[ImageFact], *, deep: DeepRange = FULL_RANGE
) -> list[Note]:
    """Note, for each kind with its count and first file, what is odd among the readable images."""
    scale = describe_range(deep)
    notes = [
        _count_odd(paths, [remark in fact.remarks for fact in facts], text.replace("RANGE", scale))
        for remark, text in _ODD.items()
    ]
    large = [fact.width * fact.height > LARGE_PIXELS for fact in facts]
    tiny = [fact.ok and min(fact.width, fact.height) < TINY for fact in facts]
    notes.append(_count_odd(paths, large, f"have more than {LARGE_PIXELS >> 20} megapixels"))
    notes.append(_count_odd(paths, tiny, f"are less than {TINY} px wide or high"))
    return [note for note in notes if note.count]


def describe_range(deep: DeepRange) -> str:
    """Say what is black and white: of whole numbers, of floating-point numbers, or of both."""
    whole = f"{deep.black:g} to {deep.white:g}"
    other = f"{deep.float_black:g} to {deep.float_white:g}"
    if (deep.float_black, deep.float_white) == (FULL_RANGE.float_black, FULL_RANGE.float_white):
        return whole if deep != FULL_RANGE else f"{whole}, of floating-point numbers {other},"
    if (deep.black, deep.white) == (FULL_RANGE.black, FULL_RANGE.white):
        return other
    return f"{whole}, of floating-point numbers {other},"


def _count_odd(paths: Sequence[Path], is_odd: Sequence[bool], text: str) -> Note:
    found = [path for path, one in zip(paths, is_odd, strict=True) if one]
    if not found:
        return Note("content", "")
    first = printable(found[0]) + (", …" if len(found) > 1 else "")
    what = f"{len(found):,} of {len(paths):,} images {text} ({first})"
    return Note("content", what, len(found))


def note_shape(median_aspect: float, fits: Iterable[Fit]) -> list[Note]:
    """Warn of images so far from square that a crop shows less than half of them; else empty."""
    if median_aspect <= LONG or "crop" not in fits:
        return []
    text = (
        f"images are {median_aspect:.1f} times as long as wide (median): only the square in the middle of "
        f"each is used, {1 / median_aspect:.0%} of it; --fit pad shows all of it"
    )
    return [Note("shape", text)]
