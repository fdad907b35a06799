"""One row of the results for each photo, and how it stands in CSV, in JSON lines and on a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

from contract.files import printable
from contract.model_answers import ImageAnswer

COLUMNS = ("path", "label", "probability", "second", "second_probability", "set", "unknown", "error")
SEPARATOR = "|"
"""Between the names of a set in CSV."""

_BOOLS = {True: "true", False: "false", None: ""}


class Form(StrEnum):
    """How results are written; the values are what users type."""

    CSV = "csv"
    JSONL = "jsonl"
    TABLE = "table"


SUFFIXES = {".csv": Form.CSV, ".jsonl": Form.JSONL, ".ndjson": Form.JSONL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was found for a photo; without a label there is an error, in one line."""

    path: str
    label: str = ""
    probability: float | None = None
    second: str = ""
    second_probability: float | None = None
    set: tuple[str, ...] = ()
    unknown: bool | None = None
    error: str = ""
    probabilities: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, found: ImageAnswer | str, *, with_set: bool, with_all: bool) -> Self:
        """Make the row of an answer or of an error."""
        if isinstance(found, str):
            return cls(path=path, error=" ".join(found.split()) or "cannot be read")
        return cls(
            path=path,
            label=found.label,
            probability=found.probability,
            second=found.second or "",
            second_probability=found.second_probability,
            set=found.set if with_set else (),
            unknown=None if found.known is None else not found.known,
            probabilities=found.probabilities if with_all else {},
        )


class RowFormat(Protocol):
    """A format of results."""

    @property
    def header(self) -> bytes:
        """What stands before the first row."""

    def write(self, row: Row) -> bytes:
        """The bytes of a row, with the newline that ends it."""

    def parse(self, record: bytes) -> Row:
        """The row of such bytes.

        Raises:
            ValueError: they are no row of this format.
        """

    def is_whole(self, record: bytes) -> bool:
        """Whether bytes that end in a newline are a whole row."""


class CsvRows:
    """Comma-separated values in UTF-8; bytes of a name that are no UTF-8 are written like \\udcff."""

    def __init__(self, classes: Sequence[str], *, with_all: bool) -> None:
        self._classes = tuple(classes) if with_all else ()
        self._sets_as_json = any(SEPARATOR in name for name in classes)
        self._width = len(COLUMNS) + len(self._classes)

    @property
    def header(self) -> bytes:
        return self._join([*COLUMNS, *(f"probability_{name}" for name in self._classes)])

    def write(self, row: Row) -> bytes:
        names = json.dumps(row.set, ensure_ascii=False) if self._sets_as_json else SEPARATOR.join(row.set)
        return self._join(
            [
                row.path,
                row.label,
                _number(row.probability),
                row.second,
                _number(row.second_probability),
                names if row.label else "",
                _BOOLS[row.unknown],
                row.error,
                *(_number(row.probabilities.get(name)) for name in self._classes),
            ]
        )

    def parse(self, record: bytes) -> Row:
        (cells,) = csv.reader(io.StringIO(record.decode("utf-8"), newline=""), strict=True)
        if len(cells) != self._width:
            raise ValueError(f"{len(cells)} columns, not {self._width}")
        path, label, probability, second, second_probability, names, unknown, error = cells[: len(COLUMNS)]
        inside = json.loads(names or "[]") if self._sets_as_json else [n for n in names.split(SEPARATOR) if n]
        return Row(
            path=path,
            label=label,
            probability=_read_number(probability),
            second=second,
            second_probability=_read_number(second_probability),
            set=tuple(inside),
            unknown={"true": True, "false": False, "": None}[unknown],
            error=error,
        )

    def is_whole(self, record: bytes) -> bool:
        return record.count(b'"') % 2 == 0  # else the newline stands in a quoted cell

    def _join(self, cells: Sequence[str]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(cells)  # only with \r\n as its end it quotes both of these in a cell
        return text.getvalue().removesuffix("\r\n").encode("utf-8", "backslashreplace") + b"\n"


class JsonRows:
    """JSON lines in UTF-8; bytes of a name that are no UTF-8 are escaped, and read back as they were."""

    header = b""

    def __init__(self, *, with_all: bool) -> None:
        self._with_all = with_all

    def write(self, row: Row) -> bytes:
        values: dict[str, Any] = {
            "path": row.path,
            "label": row.label or None,
            "probability": row.probability,
            "second": row.second or None,
            "second_probability": row.second_probability,
            "set": list(row.set),
            "unknown": row.unknown,
            "error": row.error or None,
        }
        if self._with_all:
            values["probabilities"] = row.probabilities
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    def parse(self, record: bytes) -> Row:
        values = json.loads(record.decode("utf-8"))
        if not isinstance(values, dict) or not set(COLUMNS) <= values.keys():
            raise ValueError("no row of results")
        return Row(
            path=values["path"],
            label=values["label"] or "",
            probability=values["probability"],
            second=values["second"] or "",
            second_probability=values["second_probability"],
            set=tuple(values["set"]),
            unknown=values["unknown"],
            error=values["error"] or "",
        )

    def is_whole(self, record: bytes) -> bool:
        return True  # JSON escapes the newlines in it


class TableRows:
    """Aligned text for a person; a question mark stands before what looks like none of the classes."""

    header = b""

    def __init__(self, classes: Sequence[str]) -> None:
        self._width = min(max(map(len, classes), default=0), 24)

    def write(self, row: Row) -> bytes:
        path = printable(row.path).replace("\n", "\N{SYMBOL FOR NEWLINE}")
        if row.error:
            text = f"  {'':{self._width}}    error  {path}: {row.error}"
        else:
            mark = "?" if row.unknown else " "
            text = f"{mark} {self._name(row.label)} {_percent(row.probability)}  {path}"
            if len(row.set) > 1:
                text += f"  (or {', '.join(row.set[1:4])}{', …' if len(row.set) > 4 else ''})"
        return (text + "\n").encode("utf-8", "replace")

    def parse(self, record: bytes) -> Row:
        raise ValueError("a table for people is not read back")

    def is_whole(self, record: bytes) -> bool:
        return True

    def _name(self, label: str) -> str:
        short = label if len(label) <= self._width else label[: self._width - 1] + "…"
        return f"{short:{self._width}}"


def make_format(form: Form, classes: Sequence[str], *, with_all: bool) -> RowFormat:
    """Make the format of results of a model with these classes."""
    if form is Form.CSV:
        return CsvRows(classes, with_all=with_all)
    return JsonRows(with_all=with_all) if form is Form.JSONL else TableRows(classes)


def choose_form(out: Path | None, asked: str | None, *, is_terminal: bool) -> Form:
    """Choose the form that was asked for, that of the file's suffix, or what suits where it goes.

    Raises:
        ValueError: the file has another suffix, or a table was asked for in a file.
    """
    if asked is not None:
        form = Form(asked)
        if form is Form.TABLE and out is not None:
            raise ValueError("--format table is for a terminal: leave --out out, or write csv or jsonl")
        return form
    if out is None:
        return Form.TABLE if is_terminal else Form.CSV
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out.name}: end it in .csv or .jsonl, or pass --format")
    return SUFFIXES[out.suffix.lower()]


def as_text(path: str) -> str:
    """Bring a path into the form in which results are compared: bytes that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def _read_number(text: str) -> float | None:
    return float(text) if text else None


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0):5.1f} %"
