"""ImageListing: the image files of a source, their classes, splits and groups, and notes on the reading."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.class_names import sort_class_names
from contract.files import plural, printable

SAMPLE = 100

MISSING_WORDS = frozenset(("", "nan", "na", "n/a", "none", "null", "nil", "missing", "unknown", "?", "-"))
"""Labels, in lower case, that programs write where there is none; each may be a class all the same."""


@dataclass(frozen=True)
class Note:
    """Something a user should know about how a source was read."""

    kind: str
    """left out, split, class, label, column, path, copy, leak, content, shape, other files, corrected
    or renamed."""

    text: str
    """A line that stands for itself."""

    count: int = 0
    """Number of images, files or rows that it is about; 0 where it is about none in particular."""


class ListedImage(NamedTuple):
    """One image of a source, before its class has a number."""

    path: Path
    label: str
    split: str | None
    """"train", "val" or "test"; None = still to be split."""

    name: str
    """Path below the class folder, or as the table has it: what --group-by looks at."""

    group: str = ""
    """Images of the same group stay in one split; empty = in a group of its own."""


@dataclass(frozen=True, eq=False)
class ImageListing:
    """The images of a source, in a stable order."""

    source: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    """Positions in `classes`."""

    classes: tuple[str, ...]
    splits: tuple[str | None, ...]
    """"train", "val" or "test"; None = still to be split."""

    names: tuple[str, ...] = ()
    """Path of each image below its class folder, or as the table has it."""

    groups: tuple[str, ...] = ()
    """Images of the same group stay in one split; an empty name is a group of its own. () = no groups."""

    renamed: tuple[str, ...] = ()
    """Name of each class by --classes; empty = its images are cut into splits, but not used. () = its own."""

    notes: tuple[Note, ...] = ()


def make_listing(source: str, rows: Sequence[ListedImage], notes: Iterable[Note] = ()) -> ImageListing:
    """Build a listing, with its classes in sorted order and equal under Unicode's composed form (NFC).

    Raises:
        ValueError: fewer than two classes.
    """
    spelled = {name: spell_class(name) for name in {row.label for row in rows}}
    classes = sort_class_names(set(spelled.values()))
    notes = tuple(notes)
    if len(classes) < 2:
        left = "".join(f"; left out: {note.text}" for note in notes if note.kind == "left out")
        raise ValueError(
            f"{source}: only one class, {classes[0]!r}; a classifier needs at least two (one folder a class)"
            f"{left}"
        )
    position = {name: index for index, name in enumerate(classes)}
    return ImageListing(
        source=source,
        paths=tuple(row.path for row in rows),
        labels=np.array([position[spelled[row.label]] for row in rows], dtype=np.int64),
        classes=classes,
        splits=tuple(row.split for row in rows),
        names=tuple(row.name for row in rows),
        groups=tuple(row.group for row in rows) if any(row.group for row in rows) else (),
        notes=(*notes, *find_similar_classes(classes)),
    )


def take_images(listing: ImageListing, keep: NDArray[np.bool_], notes: Iterable[Note] = ()) -> ImageListing:
    """The images of `listing` that are kept; classes without an image are dropped, and those left renumbered.

    Raises:
        ValueError: fewer than two classes are left.
    """
    rows = np.flatnonzero(keep).tolist()
    present, labels = np.unique(listing.labels[rows], return_inverse=True)
    if len(present) < 2:
        raise ValueError(
            f"{listing.source}: fewer than two classes are left; a classifier needs at least two"
        )
    return replace(
        listing,
        paths=tuple(listing.paths[row] for row in rows),
        labels=labels.astype(np.int64),
        classes=tuple(listing.classes[label] for label in present),
        renamed=tuple(listing.renamed[label] for label in present) if listing.renamed else (),
        splits=tuple(listing.splits[row] for row in rows),
        names=tuple(listing.names[row] for row in rows) if listing.names else (),
        groups=tuple(listing.groups[row] for row in rows) if listing.groups else (),
        notes=(*listing.notes, *notes),
    )


def leave_out(
    listing: ImageListing, min_images: int | None, *, readable: NDArray[np.bool_] | None = None
) -> tuple[ImageListing, NDArray[np.bool_]]:
    """Leave out unreadable images, and by name the classes with fewer than --min-images others.

    Args:
        min_images: None leaves out no class. Of classes that --classes renames the names are counted, once
            their images are cut: see `use_classes`.
        readable: which images can be read [N]; None = all.

    Returns:
        The listing of what is kept, and which images of the given one those are [N].

    Raises:
        ValueError: fewer than two classes are left.
    """
    keep = np.ones(len(listing.labels), dtype=np.bool_) if readable is None else readable
    counts = np.bincount(listing.labels[keep], minlength=len(listing.classes))
    small = np.flatnonzero(counts < (0 if listing.renamed else min_images or 0))
    notes = []
    if len(small):
        named = list_names([listing.classes[label] for label in small], most=12)
        text = f"classes with fewer than {plural(min_images or 0, 'image')}: {named}"
        notes.append(Note("left out", text, int(counts[small].sum())))
        keep = keep & ~np.isin(listing.labels, small)
    return (listing if keep.all() else take_images(listing, keep, notes)), keep


def spell_class(name: str) -> str:
    """Spell a class name in composed characters; bytes that are no UTF-8 are read as Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode(errors="surrogateescape").decode("latin-1")
    return unicodedata.normalize("NFC", name)


def take_sample(paths: Sequence[Path]) -> Sequence[Path]:
    """About a hundred of the paths, evenly spread, whose sizes stand for all."""
    return paths[:: max(1, len(paths) // SAMPLE)]


def find_similar_classes(classes: Iterable[str]) -> list[Note]:
    """Note classes whose names differ in case, blanks or the writing of a number, and odd names."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        by_key[_simplify(name)].append(name)
    notes = [
        Note(
            "class",
            f"{list_names(names, most=10)} are different classes: are they meant to be one?",
            len(names),
        )
        for names in by_key.values()
        if len(names) > 1
    ]
    blank = [name for name in classes if name.strip().lower() in MISSING_WORDS]
    if blank:
        is_class = "is a class here" if len(blank) == 1 else "are classes here"
        notes.append(
            Note("label", f"{list_names(blank)} {is_class}: does it stand for a missing label?", len(blank))
        )
    return notes


def _simplify(name: str) -> str:
    """Key that "Cat", "cat ", "CAT" share, and "1", "01", "1.0"."""
    text = " ".join(
        unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split()
    )
    try:
        return f"{float(text):g}" if text and text[-1].isdigit() else text
    except ValueError:
        return text


def list_names(names: Sequence[object], *, most: int = 5) -> str:
    """Join names with commas, "and N more" for those beyond `most`; each can be printed."""
    shown = ", ".join(repr(printable(name)) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
