"""Finds the files that a table names, also where it was written on another machine or names images by id."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from contract.files import plural, printable
from contract.image_names import is_hidden, is_image
from trainables.data.datasets._listing import Note, list_names

TRIED = 20
"""Missing files that are looked for in other places before the rest is taken to be missing, too."""

MOST_FOLDERS = 50
"""Folders beside the table in which its images are looked for."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DRIVE = re.compile(r"^[A-Za-z]:")


class _Reading(NamedTuple):
    """A way to read the paths of a table: drop the first folders of each, look in a folder, add a suffix."""

    num_dropped: int
    below: str
    adds_suffix: bool


def find_files(table: Path, names: Sequence[str]) -> tuple[list[Path | None], list[Note]]:
    """Find the file of every name; None for what is there but no file, a missing one keeps its plain path.

    Names are tried as they are first. Those that are missing are tried with slashes for back-slashes, without
    their first folders, in the folders beside the table, and with an image's suffix.

    Raises:
        ValueError: names are URLs, or no file is found.
    """
    _refuse_urls(table, names)
    base = table.parent
    paths: list[Path | None] = []
    missing: list[int] = []
    odd: list[str] = []
    for position, name in enumerate(names):
        path: Path | None = base / name
        try:
            if not stat.S_ISREG(os.stat(base / name).st_mode):  # noqa: PTH116 (hot)
                path = None
                odd.append(name)
        except (OSError, ValueError):
            missing.append(position)
        paths.append(path)
    notes = (
        [Note("left out", f"{plural(len(odd), 'row')} without a regular file: {list_names(odd)}", len(odd))]
        if odd
        else []
    )
    if missing:
        notes += _look_elsewhere(base, names, missing, paths)
    if len(missing) == len(names) and not any(path and path.exists() for path in paths):
        raise ValueError(
            f"{table}: none of its images exists, the first is {printable(base / names[0])};"
            f" relative paths count from {base}"
        )
    return paths, notes


def _refuse_urls(table: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names, 2):
        if _URL.match(name):
            raise ValueError(
                f"{table}, about line {number}: {name} is a URL; download the images and name their"
                " files, or pass the folder of a bucket (s3://bucket/folder) as --data"
            )


def _look_elsewhere(
    base: Path, names: Sequence[str], missing: Sequence[int], paths: list[Path | None]
) -> list[Note]:
    """Fill in the files of missing names, unless two names would become the same file."""
    places = _Places(base)
    found: dict[int, Path] = {}
    readings: list[_Reading] = []
    for tried, position in enumerate(missing):
        parts = _split(names[position])
        path = next((path for reading in readings if (path := places.find(parts, reading))), None)
        if path is None and (tried < TRIED or readings):
            for reading in places.all_readings(len(parts)):
                if path := places.find(parts, reading):
                    readings.append(reading)
                    break
        if path is not None:
            found[position] = path
    if not found or len(set(found.values())) < len({names[position] for position in found}):
        return []
    for position, path in found.items():
        paths[position] = path
    first = next(iter(found))
    shown = f"{printable(names[first])!r} as {printable(found[first].relative_to(base))!r}"
    return [Note("path", f"not there as written, {plural(len(found), 'path')} read like {shown}", len(found))]


def _split(name: str) -> tuple[str, ...]:
    path = PurePosixPath(_DRIVE.sub("", name.replace("\\", "/")).lstrip("/"))
    return tuple(part for part in path.parts if part not in (".", ".."))


class _Places:
    """The folders near a table, each listed once."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._stems: dict[Path, dict[str, str]] = {}
        with os.scandir(base) as entries:
            names = sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())
        self._folders = names[:MOST_FOLDERS]

    def all_readings(self, num_parts: int) -> Iterator[_Reading]:
        for num_dropped in range(num_parts):
            for below in ("", *self._folders):
                for adds_suffix in (False, True):
                    yield _Reading(num_dropped, below, adds_suffix)

    def find(self, parts: Sequence[str], reading: _Reading) -> Path | None:
        """The file that these parts of a path name under a reading; None if there is none."""
        kept = parts[reading.num_dropped :]
        if not kept:
            return None
        folder = self._base.joinpath(reading.below, *kept[:-1])
        name = self._list(folder).get(kept[-1].casefold()) if reading.adds_suffix else kept[-1]
        if name is None:
            return None
        path = folder / name
        return path if path.is_file() else None

    def _list(self, folder: Path) -> dict[str, str]:
        """Image files of a folder by their name without suffix; names that two files share are left out."""
        if folder not in self._stems:
            stems: dict[str, str | None] = {}
            with suppress(OSError), os.scandir(folder) as entries:
                for name in sorted(entry.name for entry in entries if is_image(entry.name)):
                    stem = PurePosixPath(name).stem.casefold()
                    stems[stem] = None if stem in stems else name
            self._stems[folder] = {stem: name for stem, name in stems.items() if name is not None}
        return self._stems[folder]
