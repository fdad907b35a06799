"""A table (CSV, TSV) that names images with their labels, and perhaps their splits and groups."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from contract.column_names import name_column
from contract.files import plural, printable
from contract.image_names import is_image
from contract.study_layout import StudyPaths
from trainables.data.datasets._columns import STUDY_COLUMNS, Columns, Row, find_columns
from trainables.data.datasets._layout import split_of
from trainables.data.datasets._listing import ImageListing, ListedImage, Note, list_names, make_listing
from trainables.data.datasets._table_paths import find_files

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = ",;\t|"
LABEL_SEPARATORS = ",;|"
MOST_FIELD_BYTES = 1_000_000


def list_table(file: Path, *, group_by: str | None = None) -> ImageListing:
    """List the images that a table names; relative paths count from the file's folder.

    Args:
        group_by: a column whose equal values name images that belong together [`group`, if it is there].

    Raises:
        ValueError: unreadable, a column missing, an unknown split, no image there, one class.
    """
    file = file.absolute()
    text, notes = read_table_text(file)
    titles, rows, found = _read_rows(file, text)
    notes += found
    if not rows:
        raise ValueError(f"{file} lists no images; expected a line path,label[,split] and one line an image")
    classes = _classes_of_study(file, titles)
    columns, found = find_columns(str(file), titles, rows, group_by)
    if classes:
        rows = [{**row, "label": _name_class(file, row["label"], classes)} for row in rows]
    notes += found
    images = _make_rows(file, columns, rows, notes)
    return make_listing(str(file), images, [*notes, *_find_several_labels(images)])


def read_table_text(file: Path) -> tuple[str, list[Note]]:
    """Read a table's text in UTF-8, UTF-16 or Windows-1252.

    Raises:
        ValueError: it cannot be read, or is no text.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; check its permissions") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16"), []
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        if b"\0" in content[:4096]:
            raise ValueError(
                f"{file} is not text; save the table as CSV with the columns path,label"
            ) from None
        return content.decode("cp1252", errors="replace"), [
            Note("column", "the table is not UTF-8; it is read as Windows-1252")
        ]


def _read_rows(file: Path, text: str) -> tuple[list[str], list[dict[str, str]], list[Note]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    notes = []
    if delimiter != "," and delimiter in first:
        shown = {"\t": "tabs", ";": "semicolons", "|": "bars"}[delimiter]
        notes.append(Note("column", f"its columns are separated by {shown}"))
    csv.field_size_limit(MOST_FIELD_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        cells = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: no table that can be read ({error})") from error
    if cells and any(is_image(cell.replace("\\", "/").rpartition("/")[2]) for cell in cells[0]):
        titles = _name_columns_without_header(file, cells)
        notes.append(Note("column", f"it has no header: its columns are read as {', '.join(titles)}"))
    else:
        titles = cells[0] if cells else []
        cells = cells[1:]
    names = [name_column(title) for title in titles]
    doubled = [name for name, number in Counter(names).items() if name and number > 1]
    if doubled:
        raise ValueError(f"{file} has several columns called {list_names(doubled)}; give each its own name")
    return titles, [dict(zip(names, [*row, *[""] * len(names)], strict=False)) for row in cells], notes


def _name_columns_without_header(file: Path, cells: Sequence[Sequence[str]]) -> list[str]:
    """Name the columns of a table whose first line is an image: a path, a label and perhaps a split."""
    width = len(cells[0])
    at = next(n for n, cell in enumerate(cells[0]) if is_image(cell.replace("\\", "/").rpartition("/")[2]))
    others = [n for n in range(width) if n != at]
    splits = [n for n in others if all(split_of(row[n]) for row in cells if len(row) > n and row[n])]
    labels = [n for n in others if n not in splits]
    if len(labels) != 1 or len(splits) > 1:
        raise ValueError(
            f"{file} has no header: put a first line like path,label[,split] that names its columns"
        )
    names = {at: "path", labels[0]: "label"} | dict.fromkeys(splits, "split")
    return [names[n] for n in range(width)]


def _classes_of_study(file: Path, names: Sequence[str]) -> list[str]:
    """Names of the classes whose numbers a study's data.csv holds; [] for any other table."""
    if tuple(names[:4]) != STUDY_COLUMNS or "class" in names:
        return []
    try:
        classes = json.loads(StudyPaths(file.parent).facts.read_text(encoding="utf-8"))["data"]["classes"]
        return [str(name) for name in classes]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _name_class(file: Path, number: str, classes: Sequence[str]) -> str:
    if not number.isdecimal() or int(number) >= len(classes):
        raise ValueError(f"{file}: {number!r} is not the number of one of the study's {len(classes)} classes")
    return classes[int(number)]


def _make_rows(file: Path, columns: Columns, rows: Sequence[Row], notes: list[Note]) -> list[ListedImage]:
    """Turn rows into images, leaving out those without a path or a label and those that are there twice."""
    labelled = [row for row in rows if row[columns.path] and columns.label_of(row)]
    if len(labelled) < len(rows):
        number = len(rows) - len(labelled)
        line = next(n for n, row in enumerate(rows, 2) if not row[columns.path] or not columns.label_of(row))
        notes.append(
            Note(
                "left out",
                f"{plural(number, 'row')} without a path or a label, the first in line {line}",
                number,
            )
        )
    if not labelled:
        raise ValueError(
            f"{file}: no row has a path and a label; expected a line path,label and one line an image"
        )
    paths, found = find_files(file, [row[columns.path] for row in labelled])
    notes += found
    images: dict[tuple[Path, str], ListedImage] = {}
    for row, path in zip(labelled, paths, strict=True):
        if path is not None:
            label, group = columns.label_of(row), row[columns.group] if columns.group else ""
            image = ListedImage(path, label, columns.split_of(row), row[columns.path], group)
            images.setdefault((path, label), image)
    number = sum(path is not None for path in paths) - len(images)
    if number:
        notes.append(
            Note(
                "left out",
                f"{plural(number, 'repeated row')}, each naming an image with its label once more",
                number,
            )
        )
    _note_two_labels(images, notes)
    return list(images.values())


def _note_two_labels(images: Iterable[tuple[Path, str]], notes: list[Note]) -> None:
    counts = Counter(path for path, _ in images)
    several = [path for path, number in counts.items() if number > 1]
    if several:
        notes.append(
            Note(
                "label",
                f"{plural(len(several), 'image')} with several labels, {printable(several[0].name)} for"
                " one: each row counts as an image with one label, since images with several labels at"
                " once are not supported",
                len(several),
            )
        )


def _find_several_labels(images: Sequence[ListedImage]) -> list[Note]:
    """Note labels such as "cat,dog" whose parts are labels, too: one cell that holds several labels."""
    labels = {image.label for image in images}
    for separator in LABEL_SEPARATORS:
        parts = {
            label: [part.strip() for part in label.split(separator)] for label in labels if separator in label
        }
        known = labels | {part for part, number in _count(parts.values()).items() if number > 1}
        several = sorted(label for label, names in parts.items() if known.issuperset(names))
        if several:
            text = (
                f"{list_names(several)} look like several labels in one cell, and are classes of their"
                " own here: images with several labels at once are not supported"
            )
            return [Note("label", text, len(several))]
    return []


def _count(parts: Iterable[Sequence[str]]) -> Counter[str]:
    return Counter(part for names in parts for part in names)
