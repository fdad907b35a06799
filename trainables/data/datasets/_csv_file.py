"""A CSV file of images: columns path, label and, if wished, split."""

from __future__ import annotations

import csv
from pathlib import Path

from trainables.data.datasets._listing import SPLIT_ALIASES, ImageListing, make_listing

COLUMNS = "path,label[,split]"


def list_csv(csv_file: Path) -> ImageListing:
    """List the images a CSV file names; relative paths count from the folder the file lies in.

    Raises:
        ValueError: unreadable, a column missing, an empty cell, an unknown split, no image there, one class.
    """
    csv_file = csv_file.absolute()
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as lines:
            rows = _read_rows(csv_file, csv.DictReader(lines, skipinitialspace=True))
    except OSError as error:
        raise ValueError(f"cannot read {csv_file}: {error.strerror}; check its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{csv_file} is not a UTF-8 CSV file with the columns {COLUMNS} ({error})"
        ) from error
    if not rows:
        raise ValueError(f"{csv_file} lists no images; expected a line {COLUMNS} and one line an image")
    if not any(path.exists() for path, _, _ in rows):
        raise ValueError(
            f"{csv_file}: none of its images exists, the first is {rows[0][0]};"
            f" relative paths count from {csv_file.parent}"
        )
    return make_listing(str(csv_file), rows)


def _read_rows(csv_file: Path, reader: csv.DictReader[str]) -> list[tuple[Path, str, str | None]]:
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    missing = [name for name in ("path", "label") if name not in reader.fieldnames]
    if missing:
        found = ", ".join(reader.fieldnames) or "nothing"
        raise ValueError(
            f"{csv_file} lacks the column {' and '.join(missing)}; expected {COLUMNS}, found {found}"
        )
    return [_read_row(csv_file, reader.line_num, row) for row in reader]


def _read_row(csv_file: Path, line: int, row: dict[str, str | None]) -> tuple[Path, str, str | None]:
    path, label, split = ((row.get(name) or "").strip() for name in ("path", "label", "split"))
    if not path or not label:
        raise ValueError(f"{csv_file}, line {line}: path and label must not be empty")
    if split and split.lower() not in SPLIT_ALIASES:
        raise ValueError(f"{csv_file}, line {line}: split must be train, val, test or empty, got {split!r}")
    return csv_file.parent / path, label, SPLIT_ALIASES[split.lower()] if split else None
