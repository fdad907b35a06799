"""Finds out what the columns of a table mean: which holds paths, labels, splits and groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.column_names import LABELS, PATHS, name_column
from trainables.data.datasets._layout import split_of
from trainables.data.datasets._listing import Note, list_names

SPLITS = (
    "split",
    "splits",
    "set",
    "subset",
    "partition",
    "phase",
    "usage",
    "data_split",
    "dataset_split",
    "dataset",
)
STUDY_COLUMNS = ("id", "path", "label", "split")
"""First columns of a study's own data.csv, where a label is the number of a class."""

GROUPS = ("group", "group_id", "groups")
"""Names of columns in lower case, words joined by underscores; the first that is there counts."""

_FLAG = re.compile(
    r"(?:is_)?(train|training|val|valid|validation|dev|test|testing)(?:_image|_set|ing_image)?"
)
_TRUE, _FALSE = (
    frozenset(("1", "1.0", "true", "t", "yes", "y")),
    frozenset(("0", "0.0", "false", "f", "no", "n", "")),
)
_OTHERS = {"train": "test", "val": "train", "test": None}
"""Split of the rows that a lone flag column leaves: test if not for training, train if not for validation."""

_TOGETHER = re.compile(
    r"patient|subject|person|people|case|series|session|site|plot|tile|video|clip|burst|plant|study"
)

Row = Mapping[str, str]


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used."""

    path: str
    label: str
    """Empty where there is a column for every class."""

    classes: tuple[tuple[str, str], ...] = ()
    """(column, class): columns of which one is 1 in every row, and the classes that they stand for."""

    split: str = ""
    flags: tuple[tuple[str, str], ...] = ()
    """(column, split): columns that say of a row whether it is of this split."""

    group: str = ""

    def label_of(self, row: Row) -> str:
        """The label of a row; empty if it has none."""
        if self.classes:
            return next(
                (name for column, name in self.classes if row[column] and float(row[column]) == 1), ""
            )
        return row[self.label]

    def split_of(self, row: Row) -> str | None:
        """The split of a row; None if it is still to be split."""
        if self.split:
            found = split_of(row[self.split])
            return found[0] if found else None
        for column, split in self.flags:
            if row[column].lower() in _TRUE:
                return split
        splits = {split for _, split in self.flags}
        if len(splits) > 1:  # of train and test columns, or of all three, one is true unless nothing is said
            return None if "train" in splits else "train"
        return _OTHERS[splits.pop()] if splits else None


def find_columns(
    source: str, titles: Sequence[str], rows: Sequence[Row], group_by: str | None
) -> tuple[Columns, list[Note]]:
    """Find the columns that are used, and note the others.

    Raises:
        ValueError: there is no column of paths or of labels, or the column `split` holds something else.
    """
    names = [name_column(title) for title in titles]
    if tuple(names[:4]) == STUDY_COLUMNS:
        label, group = ("class" if "class" in names else "label"), ("group" if "group" in names else "")
        return Columns("path", label, split="split", group=group), []
    path = next((name for name in PATHS if name in names), "")
    label = next((name for name in LABELS if name in names), "")
    classes = () if label else _find_class_columns(source, [name for name in names if name != path], rows)
    missing = [what for what, found in (("path", path), ("label", label or classes)) if not found]
    if missing:
        raise ValueError(
            f"{source} lacks the column {' and '.join(missing)}; expected path,label[,split][,group], found"
            f" {', '.join(names) or 'nothing'}"
        )
    split = _find_split_column(source, names, rows)
    free = [name for name in names if name not in (path, label, split, *classes)]
    by_title = dict(zip(names, titles, strict=True))
    flags = () if split else _find_flags(free, rows)
    wanted = (name_column(group_by),) if group_by else GROUPS
    group = next((name for name in wanted if name in names), "")
    columns = Columns(path, label, tuple((name, by_title[name]) for name in classes), split, flags, group)
    return columns, _describe(columns, names)


def _find_class_columns(source: str, names: Sequence[str], rows: Sequence[Row]) -> tuple[str, ...]:
    """Columns that hold 0 and 1 only, of which every row has one 1 (or none, if it has no label)."""
    binary = [name for name in names if all(row[name] in ("0", "1", "0.0", "1.0") for row in rows)]
    if len(binary) < 2 or not rows:
        return ()
    most = max(sum(float(row[name]) == 1 for name in binary) for row in rows)
    if most > 1:
        raise ValueError(
            f"{source} lacks the column label; its columns {list_names(binary)} give an image up to"
            f" {most} labels at once: images with several labels are not supported, one label an image is"
        )
    return tuple(binary)


def _find_split_column(source: str, names: Sequence[str], rows: Sequence[Row]) -> str:
    for name in SPLITS:
        if name not in names:
            continue
        wrong = [
            (number, row[name]) for number, row in enumerate(rows, 2) if row[name] and not split_of(row[name])
        ]
        if not wrong and any(row[name] for row in rows):
            return name
        if wrong and name == "split":
            number, value = wrong[0]
            raise ValueError(
                f"{source}, line {number}: split must be train, val, test or empty, got {value!r}"
            )
    return ""


def _find_flags(names: Sequence[str], rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    found = []
    for name in names:
        match = _FLAG.fullmatch(name)
        if match and rows and all(row[name].lower() in _TRUE | _FALSE for row in rows):
            read = split_of(match[1])
            assert read is not None
            found.append((name, read[0]))
    return tuple(found)


def _describe(columns: Columns, names: Sequence[str]) -> list[Note]:
    notes = []
    flags = [column for column, _ in columns.flags]
    meant = [
        ("path", [columns.path]),
        ("label", [columns.label] if columns.label else [name for name, _ in columns.classes]),
        ("split", [columns.split] if columns.split else flags),
        ("group", [columns.group]),
    ]
    read = [f"{list_names(found)} as {what}" for what, found in meant if any(found) and found != [what]]
    if read:
        notes.append(Note("column", f"columns read: {', '.join(read)}"))
    used = {columns.path, columns.label, columns.split, columns.group, *flags}
    used |= {name for name, _ in columns.classes}
    unused = [name for name in names if name and name not in used]
    if unused:
        together = next((name for name in unused if _TOGETHER.search(name)), "")
        hint = (
            f"; if images of one {together} belong together, pass --group-by {together}" if together else ""
        )
        notes.append(Note("column", f"columns not used: {list_names(unused, most=12)}{hint}", len(unused)))
    return notes
