"""Class mapping: a CSV file that merges, renames and drops classes, and leaves the split as it is.

The split is cut on the classes that the data have, dropped ones included. So two tasks made from one folder,
"one class against the rest" and "the rest", train, validate and test on the same images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from contract.class_names import sort_class_names
from contract.column_names import name_column
from contract.files import did_you_mean, plural
from trainables.data.corrections import find_position, spell_names
from trainables.data.datasets import ImageListing, Note, list_names
from trainables.data.datasets._listing import find_similar_classes, spell_class, take_images
from trainables.data.datasets._table import DELIMITERS, read_table_text

COLUMNS = ("class", "name")
REST = "*"
"""Stands for every class that has no row of its own."""

NAMED = 12
"""Names that notes describe; the others are counted."""


class ClassRow(NamedTuple):
    """A row of the file."""

    given: str
    """A class of the data, or REST."""

    name: str
    """What it is called from now on; empty = its images are not used."""

    line: int
    """Where the row stands in the file, counted from 1."""


class InUse(NamedTuple):
    """The images of a listing that a study uses."""

    listing: ImageListing
    """With their classes by the new names."""

    keep: NDArray[np.bool_]
    """Which images of the whole listing those are [N]."""


def map_classes(listing: ImageListing, file: Path) -> ImageListing:
    """Add to a listing what each of its classes is called by the file; its images stay, to be cut alike.

    Raises:
        ValueError: in one line, the file and the line in it that cannot be followed, and what to do.
    """
    positions = spell_names(listing.classes)
    renamed: list[str | None] = [None] * len(listing.classes)
    earlier: dict[int, ClassRow] = {}
    rest: ClassRow | None = None
    for row in read_class_file(file):
        if row.given.strip() == REST:
            if rest:
                _refuse(file, row.line, f"{REST!r} stands in line {rest.line} already: keep one of them")
            rest = row
            continue
        position = find_position(row.given, positions)
        if position is None:
            hint = did_you_mean(row.given, listing.classes) or f"classes are {list_names(listing.classes)}"
            _refuse(file, row.line, f"there is no class {row.given!r}; {hint}")
        if position in earlier:
            other = earlier[position]
            _refuse(file, row.line, f"{row.given!r} stands in line {other.line} already: keep one of them")
        earlier[position] = row
        renamed[position] = row.name
    names = tuple(
        name if name is not None else rest.name if rest else own
        for name, own in zip(renamed, listing.classes, strict=True)
    )
    left = sorted(set(names) - {""})
    if len(left) < 2:
        what = f"only {left[0]!r}" if left else "no class"
        raise ValueError(f"{file} leaves {what}: a classifier needs two names at least")
    notes = [*_describe(listing, names, file), *find_similar_classes(left)]
    return replace(listing, renamed=names, notes=(*listing.notes, *notes))


def use_classes(listing: ImageListing, min_images: int | None = None) -> InUse:
    """The images that are used of a listing, under the names that `map_classes` gave their classes.

    Args:
        min_images: leave out names with fewer images; the classes of one name count together.

    Raises:
        ValueError: fewer than two names are left.
    """
    if not listing.renamed:
        return InUse(listing, np.ones(len(listing.labels), dtype=np.bool_))
    names = sort_class_names(set(listing.renamed) - {""})
    position = {name: number for number, name in enumerate(names)} | {"": -1}
    labels = np.array([position[name] for name in listing.renamed], dtype=np.int64)[listing.labels]
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    small = np.flatnonzero((counts > 0) & (counts < (min_images or 0)))
    keep = (labels >= 0) & ~np.isin(labels, small)
    notes = []
    if len(small):
        named = list_names([names[label] for label in small], most=NAMED)
        text = f"names of --classes with fewer than {plural(min_images or 0, 'image')}: {named}"
        notes.append(Note("left out", text, int(counts[small].sum())))
    whole = replace(listing, labels=labels, classes=names, renamed=())
    return InUse(take_images(whole, keep, notes), keep)


def read_class_file(file: Path) -> list[ClassRow]:
    """Read the rows of a class file, also one that a spreadsheet wrote with semicolons or tabs.

    Raises:
        ValueError: it cannot be read, lacks a column, or a row names no class.
    """
    if not file.is_file():
        raise ValueError(f"--classes {file}: there is no such file; it is a CSV with the columns class,name")
    text, _ = read_table_text(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    csv.field_size_limit(1_000_000)
    reader = csv.reader(
        io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, skipinitialspace=True
    )
    skipped = text[: len(text) - len(text.lstrip("\r\n"))].count("\n")
    try:
        titles = [name_column(title) for title in next(reader, [])]
        _check_titles(file, titles)
        given, name = (titles.index(column) for column in COLUMNS)
        rows = [(row, reader.line_num + skipped) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num + skipped} is not CSV: {error}") from error
    return [_read_row(file, row, line, given=given, name=name) for row, line in rows]


def _check_titles(file: Path, titles: Sequence[str]) -> None:
    missing = [column for column in COLUMNS if column not in titles]
    if missing:
        raise ValueError(
            f"{file} lacks the column {' and '.join(missing)}: its first line must be {','.join(COLUMNS)},"
            f" found {', '.join(titles) or 'nothing'}"
        )
    doubled = [column for column in COLUMNS if titles.count(column) > 1]
    if doubled:
        raise ValueError(f"{file} has several columns called {list_names(doubled)}; keep one")


def _read_row(file: Path, row: Sequence[str], line: int, *, given: int, name: int) -> ClassRow:
    if len(row) <= max(given, name):
        _refuse(
            file,
            line,
            f"expected {','.join(COLUMNS)}, with an empty name to drop a class, got {','.join(row)!r}",
        )
    if not row[given].strip():
        _refuse(file, line, f"there is no class before the name {row[name].strip()!r}")
    return ClassRow(row[given], spell_class(row[name].strip()), line)


def _describe(listing: ImageListing, names: Sequence[str], file: Path) -> Iterator[Note]:
    """Note what each new name stands for, and what is not used."""
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    members: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        members.setdefault(name, []).append(label)
    dropped = members.pop("", [])
    changed = [name for name in members if [listing.classes[label] for label in members[name]] != [name]]
    for name in changed[:NAMED]:
        classes = list_names([listing.classes[label] for label in members[name]], most=NAMED)
        number = int(counts[members[name]].sum())
        yield Note("renamed", f"{name!r} is {classes} ({plural(number, 'image')}), by {file}", number)
    if len(changed) > NAMED:
        yield Note("renamed", f"{len(changed) - NAMED} more names stand for other classes, by {file}")
    if dropped:
        number = int(counts[dropped].sum())
        classes = list_names([listing.classes[label] for label in dropped], most=NAMED)
        what = f"{classes} ({plural(number, 'image')}) is not used, though cut into splits with the others"
        yield Note("renamed", f"{what}, by {file}", number)
    if not changed and not dropped:
        yield Note("renamed", f"every class keeps its name, by {file}")


def _refuse(file: Path, line: int, what: str) -> NoReturn:
    raise ValueError(f"{file}, line {line}: {what}")
