"""Reads the column of paths of a table (CSV, TSV), and that of labels, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from contract.column_names import LABELS, PATHS, name_column
from contract.files import did_you_mean
from contract.image_names import is_image

DELIMITERS = ",;\t|"
MOST_FIELD_BYTES = 1_000_000


def read(table: Path, column: str | None, *, with_labels: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the path of every row, as it is written, and its label (empty unless asked for).

    Bytes that are no UTF-8 are kept as those of a file's name are. Rows with an empty path are left out.

    Args:
        column: name of the column of paths; None = the first of the usual names that is there.

    Raises:
        ValueError: it cannot be read, or a column is missing.
    """
    csv.field_size_limit(MOST_FIELD_BYTES)
    if not table.is_file():
        what = "is no regular file" if table.exists() else "is missing"
        raise ValueError(f"{table} {what}: pass a CSV file with a column path")
    try:
        with table.open(encoding=_find_encoding(table), errors="surrogateescape", newline="") as file:
            first = file.readline(MOST_FIELD_BYTES)
            delimiter = max(DELIMITERS, key=first.count)
            file.seek(0)
            yield from _read_rows(table, csv.reader(file, delimiter=delimiter), column, with_labels)
    except OSError as error:
        raise ValueError(f"cannot read {table}: {error.strerror}; check its permissions") from error
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{table}: no table that can be read ({error})") from error


def _find_encoding(table: Path) -> str:
    with table.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _read_rows(
    table: Path, rows: Iterator[list[str]], column: str | None, with_labels: bool
) -> Iterator[tuple[str, str]]:
    titles = next(rows, [])
    at = _find_path_column(table, titles, column)
    names = [name_column(title) for title in titles]
    labels = next((names.index(name) for name in LABELS if name in names), None) if with_labels else None
    if with_labels and labels is None:
        raise ValueError(f"{table} lacks the column label, found {', '.join(titles) or 'nothing'}")
    if at is None:  # no header: the first line is a photo, too
        at = next(number for number, cell in enumerate(titles) if _is_photo(cell))
        yield titles[at], ""
    for row in rows:
        if len(row) > at and row[at].strip():
            yield row[at], row[labels].strip() if labels is not None and len(row) > labels else ""


def _find_path_column(table: Path, titles: Sequence[str], column: str | None) -> int | None:
    """Position of the column of paths; None for a table without a header."""
    if column is not None:
        if column in titles:
            return titles.index(column)
        folded = [name_column(title) for title in titles]
        if name_column(column) in folded:
            return folded.index(name_column(column))
        hint = did_you_mean(column, titles, before="; ")
        raise ValueError(f"{table} has no column {column}, but {', '.join(titles) or 'nothing'}{hint}")
    if any(_is_photo(title) for title in titles):
        return None
    names = [name_column(title) for title in titles]
    found = next((names.index(name) for name in PATHS if name in names), None)
    if found is None:
        raise ValueError(
            f"{table} lacks a column path, found {', '.join(titles) or 'nothing'}: --column names another"
        )
    return found


def _is_photo(cell: str) -> bool:
    return is_image(cell.strip().replace("\\", "/").rpartition("/")[2])
