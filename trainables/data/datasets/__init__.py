"""Data sets: labelled images from a folder, a bucket, a table, or by name (one file for each source).

An entry is a file with `NAMES`, the data sets it offers, and `load_listing(name, cache_dir=…)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from contract.buckets import is_url
from contract.files import did_you_mean
from trainables.data.datasets._bucket import copy_missing, list_bucket
from trainables.data.datasets._folder import list_folder
from trainables.data.datasets._grouping import group_images
from trainables.data.datasets._layout import ARCHIVES
from trainables.data.datasets._listing import (
    ImageListing,
    Note,
    leave_out,
    list_names,
    take_images,
    take_sample,
)
from trainables.data.datasets._table import SUFFIXES, list_table

__all__ = [
    "ImageListing",
    "Note",
    "copy_missing",
    "find_images",
    "leave_out",
    "list_names",
    "names",
    "take_images",
    "take_sample",
]


@cache
def _entries() -> dict[str, str]:
    """Data set name -> module that lists it."""
    modules = [f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__) if found.name[0] != "_"]
    return {name: module for module in modules for name in importlib.import_module(module).NAMES}


def names() -> tuple[str, ...]:
    return tuple(sorted(_entries()))


def find_images(
    source: str, *, cache_dir: Path, group_by: str | None = None, own: Sequence[Path] = ()
) -> ImageListing:
    """List the images of a folder, a URL of one, a table (path, label[, split]) or a data set by name.

    A name wins over a folder of that name in the working directory: write ./digits for the folder.

    Args:
        group_by: what images that belong together share: "folder", a pattern for their names, or a column.
        own: folders that this program writes to, which are never listed below `source`.

    Raises:
        ValueError: in one line, what is wrong with the source and what to pass instead.
        OSError: a bucket cannot be read.
    """
    if is_url(source):
        return group_images(list_bucket(source, cache_dir=cache_dir), group_by)
    if source in _entries():
        module = importlib.import_module(_entries()[source])
        return group_images(module.load_listing(source, cache_dir=cache_dir), group_by)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return group_images(list_folder(path, own=(*own, cache_dir)), group_by)
        if path.is_file():
            return _list_file(path, group_by)
    except PermissionError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    raise ValueError(_describe_unknown(source))


def _list_file(path: Path, group_by: str | None) -> ImageListing:
    if path.suffix.lower() in ARCHIVES:
        raise ValueError(f"{path} is an archive: unpack it, and pass the folder that it gives")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} is neither a folder nor a .csv file; pass a folder of class folders, a CSV or a name"
        )
    listing = list_table(path, group_by=group_by)
    return listing if listing.groups and group_by else group_images(listing, group_by)


def _describe_unknown(source: str) -> str:
    if "/" in source or source.lower().endswith(".csv"):
        path = Path(source).expanduser().absolute()
        return f"no such folder or file: {path}; pass one, or a name: {', '.join(names())}"
    hint = did_you_mean(source, names()) or f"known are {', '.join(names())}"
    return f"no data set and no folder is called {source!r}; {hint} (a path to a folder or a CSV works too)"
