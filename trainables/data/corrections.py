"""Corrections: a review file, edited by a person, that gives images another label or leaves them out.

`python -m trainables check` writes the review file; `--corrections FILE` reads it. A row without an action
changes nothing.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from contract.files import did_you_mean, write_aside
from trainables.data.datasets import ImageListing, Note, list_names
from trainables.data.datasets._listing import take_images

COLUMNS = ("path", "given", "suggested", "why", "action")
ENCODING = "utf-8-sig"
"""With a mark in front, by which spreadsheets know that accents are UTF-8."""

MOST_COMPARED = 10_000
"""Paths among which the nearest to an unknown one is looked for; among more it takes seconds."""


_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: _composed(text),
    lambda text: _composed(text).strip(),
)
"""Spellings of a name, from the strictest on: "cat " may be a class beside "cat"."""


class Action(StrEnum):
    """What a person decided about an image."""

    RELABEL = "relabel"
    """Its class is the one under `suggested`."""

    DROP = "drop"
    """It is left out."""

    KEEP = "keep"
    """It stays as it is, and is not named again."""


@dataclass(frozen=True)
class ReviewRow:
    """A row of a review file: an image, what speaks against its label, and what a person decided."""

    path: str
    """Below the data's own folder, or absolute."""

    given: str
    """Its class when the file was written."""

    suggested: str
    """Another class; empty where none is suggested."""

    why: str
    action: str = ""
    """A name of Action; empty = not decided."""

    line: int = 0
    """Where the row stands in the file, counted from 1."""


@dataclass(frozen=True)
class Correction:
    """A decided row, with the images of the listing that it is about."""

    row: ReviewRow
    action: Action
    images: tuple[int, ...]
    """Positions in the listing; a table may list a file more than once."""

    label: int = -1
    """The new class, as a position in the listing's classes; -1 unless the action is to relabel."""


def apply_corrections(listing: ImageListing, file: Path) -> tuple[ImageListing, str]:
    """Change labels and leave images out as a review file says: (listing, a line that says what was done).

    Raises:
        ValueError: in one line, the file and the line in it that cannot be followed, and what to do.
    """
    return carry_out(listing, read_corrections(listing, file), file)


def carry_out(
    listing: ImageListing, corrections: Sequence[Correction], file: Path
) -> tuple[ImageListing, str]:
    """Change labels and leave images out as was decided in `file`: see `apply_corrections`."""
    labels, keep = listing.labels.copy(), np.ones(len(listing.paths), dtype=np.bool_)
    for one in corrections:
        if one.action is Action.RELABEL:
            labels[list(one.images)] = one.label
        elif one.action is Action.DROP:
            keep[list(one.images)] = False
    _check_classes_left(listing, labels[keep], file)
    changed = int((labels != listing.labels)[keep].sum())
    kept = sum(len(one.images) for one in corrections if one.action is Action.KEEP)
    dropped = int((~keep).sum())
    line = f"{changed} relabelled, {dropped} dropped, {kept} kept as they are, by {file}"
    notes = [Note("corrected", line, changed + dropped)]
    return take_images(replace(listing, labels=labels), keep, notes), line


def read_corrections(listing: ImageListing, file: Path) -> list[Correction]:
    """Read the decided rows of a review file, and find their images and classes.

    Raises:
        ValueError: in one line, the file and the line in it that cannot be followed, and what to do.
    """
    finder, positions = _ImageFinder(listing), spell_names(listing.classes)
    corrections: list[Correction] = []
    earlier: dict[int, Correction] = {}
    for row in read_review(file):
        action = _read_action(file, row)
        if action is None:
            continue
        label = _find_class(file, row, positions) if action is Action.RELABEL else -1
        one = Correction(row, action, finder.find(file, row, label), label)
        for image in one.images:
            other = earlier.setdefault(image, one)
            if (other.action, other.label) != (one.action, one.label):
                _refuse(
                    file,
                    row,
                    f"{row.path!r} is to {_say(one)}, but to {_say(other)} by line {other.row.line}: decide",
                )
        corrections.append(one)
    return corrections


def read_review(file: Path) -> list[ReviewRow]:
    """Read all rows of a review file, also one that a spreadsheet wrote with semicolons or tabs.

    Raises:
        ValueError: it cannot be read, or lacks a column.
    """
    try:
        text = file.read_bytes().decode(ENCODING, errors="surrogateescape")
    except OSError as error:
        raise ValueError(
            f"cannot read the corrections {file}: {error.strerror}; python -m trainables check writes one"
        ) from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in ("path", "suggested", "action") if name not in reader.fieldnames]
        if missing:
            raise ValueError(
                f"{file} lacks the column {' and '.join(missing)}: corrections have the columns "
                f"{','.join(COLUMNS)}, as python -m trainables check writes them"
            )
        return [_read_row(row, reader.line_num) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is not CSV: {error}") from error


def write_review(rows: Iterable[ReviewRow], file: Path) -> None:
    """Write a review file.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((_no_formula(row.path), row.given, row.suggested, row.why, row.action) for row in rows)
    with write_aside(file) as temporary:
        temporary.write_bytes(text.getvalue().encode(ENCODING, errors="surrogateescape"))


def data_folder(listing: ImageListing) -> Path:
    """The folder that paths of a review file count from: the data's own, or the one that holds all images."""
    source = Path(listing.source)
    if source.is_dir():
        return source
    return (
        source.parent
        if source.is_file()
        else Path(os.path.commonpath([path.parent for path in listing.paths]))
    )


def short_path(path: Path, folder: Path) -> str:
    """The path below the folder, or the whole one if it lies elsewhere."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


class _ImageFinder:
    """Finds the images that a review file names."""

    def __init__(self, listing: ImageListing) -> None:
        self._listing, self._positions = listing, spell_names(listing.classes)
        folder = data_folder(listing)
        self._by_path: dict[str, list[int]] = {}
        for image, path in enumerate(listing.paths):
            names = (str(path), short_path(path, folder))
            for name in dict.fromkeys((*names, *map(_composed, names))):
                self._by_path.setdefault(name, []).append(image)

    def find(self, file: Path, row: ReviewRow, new_label: int) -> tuple[int, ...]:
        """Positions of the row's images: those with the given class, where the row has one.

        Raises:
            ValueError: no image is there, or it has another class by now.
        """
        images = self._look_up(row.path)
        if not images:
            near = self._suggest(row.path)
            _refuse(
                file,
                row,
                f"{row.path!r} is none of the {len(self._listing.paths)} images of {self._listing.source}"
                f"{near} (paths count from the data's own folder; empty the action to pass over the row)",
            )
        if not row.given:
            return tuple(images)
        classes, labels = self._listing.classes, self._listing.labels
        given = find_position(row.given, self._positions)
        as_given = [one for one in images if labels[one] == given]
        done = [one for one in images if labels[one] == new_label]
        if not as_given and not done:
            _refuse(
                file,
                row,
                f"{row.path!r} is {classes[labels[images[0]]]!r} now, not {row.given!r} as when it was "
                "checked: check again, or empty the action",
            )
        return tuple(as_given or done)

    def _look_up(self, path: str) -> list[int]:
        """The images by their path, or by the end of it where the data's folder has moved."""
        parts = Path(_composed(path)).parts
        starts = range(1, len(parts)) if parts[:1] == ("/",) else ()
        ends = (str(Path(*parts[start:])) for start in starts)
        names = (path, path.removeprefix("./"), str(Path(_composed(path).strip())), *ends)
        return next((found for name in names if (found := self._by_path.get(name))), [])

    def _suggest(self, path: str) -> str:
        if len(self._by_path) > MOST_COMPARED:
            return ""
        return did_you_mean(path, self._by_path, before="; ")


def _read_row(row: dict[str, Any], line: int) -> ReviewRow:
    values = {name: row.get(name) or "" for name in COLUMNS}  # a class may be called "cat ", beside "cat"
    return ReviewRow(**values | {"action": values["action"].strip()}, line=line)


def _read_action(file: Path, row: ReviewRow) -> Action | None:
    if not row.action:
        return None
    try:
        return Action(row.action.lower())
    except ValueError:
        hint = did_you_mean(row.action, list(Action), before="; ")
        _refuse(file, row, f"action must be {', '.join(Action)} or empty, got {row.action!r}{hint}")


def _find_class(file: Path, row: ReviewRow, positions: Mapping[str, int]) -> int:
    if not row.suggested.strip():
        _refuse(file, row, f"to relabel {row.path!r}, write its class under suggested")
    position = find_position(row.suggested, positions)
    if position is None:
        hint = did_you_mean(row.suggested, positions) or f"classes are {list_names(list(positions))}"
        _refuse(file, row, f"there is no class {row.suggested!r}; {hint} (a new class needs its own folder)")
    return position


def spell_names(classes: Sequence[str]) -> dict[str, int]:
    """Position of each class by its name, and by its other spellings where no class is written so."""
    positions: dict[str, int] = {}
    for spell in _SPELLINGS:
        for position, name in enumerate(classes):
            positions.setdefault(spell(name), position)
    return positions


def find_position(name: str, positions: Mapping[str, int]) -> int | None:
    found = (positions.get(spell(name)) for spell in _SPELLINGS)
    return next((position for position in found if position is not None), None)


def _check_classes_left(listing: ImageListing, labels: NDArray[np.int64], file: Path) -> None:
    lost = sorted(set(listing.labels.tolist()) - set(labels.tolist()))
    if lost:
        raise ValueError(
            f"{file} leaves no image of {list_names([listing.classes[label] for label in lost])}: keep one, "
            "or take the class out of the data"
        )


def _say(one: Correction) -> str:
    return f"relabel as {one.row.suggested!r}" if one.action is Action.RELABEL else str(one.action)


def _composed(text: str) -> str:
    """The same text with composed accents (NFC), whichever way a file system or a spreadsheet wrote them."""
    return unicodedata.normalize("NFC", text)


def _no_formula(path: str) -> str:
    """A relative path that no spreadsheet takes for a formula."""
    return f"./{path}" if path[:1] in tuple("=+-@") else path


def _refuse(file: Path, row: ReviewRow, what: str) -> NoReturn:
    raise ValueError(f"{file}, line {row.line}: {what}")
