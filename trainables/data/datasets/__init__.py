"""Data sets: labelled images from a folder, a bucket, a CSV file, or by name (one file for each source).

An entry is a file with `NAMES`, the data sets it offers, and `load_listing(name, cache_dir=…)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from contract.files import did_you_mean
from trainables.data.datasets._bucket import copy_missing, is_url, list_bucket
from trainables.data.datasets._listing import ImageListing, list_csv, list_folder, take_sample

__all__ = ["ImageListing", "copy_missing", "find_images", "is_url", "names", "take_sample"]


@cache
def _entries() -> dict[str, str]:
    """Data set name -> module that lists it."""
    modules = [f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__) if found.name[0] != "_"]
    return {name: module for module in modules for name in importlib.import_module(module).NAMES}


def names() -> tuple[str, ...]:
    return tuple(sorted(_entries()))


def find_images(source: str, *, cache_dir: Path) -> ImageListing:
    """List the images of a folder, a URL of one, a CSV file (path, label[, split]) or a data set by name.

    A name wins over a folder of that name in the working directory: write ./digits for the folder.

    Raises:
        ValueError: in one line, what is wrong with the source and what to pass instead.
        OSError: a bucket cannot be read.
    """
    if is_url(source):
        return list_bucket(source, cache_dir=cache_dir)
    if source in _entries():
        listing: ImageListing = importlib.import_module(_entries()[source]).load_listing(
            source, cache_dir=cache_dir
        )
        return listing
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return list_folder(path)
        if path.is_file():
            return _list_file(path)
    except PermissionError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    raise ValueError(_describe_unknown(source))


def _list_file(path: Path) -> ImageListing:
    if path.suffix.lower() != ".csv":
        raise ValueError(
            f"{path} is neither a folder nor a .csv file; pass a folder of class folders, a CSV or a name"
        )
    return list_csv(path)


def _describe_unknown(source: str) -> str:
    if "/" in source or source.lower().endswith(".csv"):
        path = Path(source).expanduser().absolute()
        return f"no such folder or file: {path}; pass one, or a name: {', '.join(names())}"
    hint = did_you_mean(source, names()) or f"known are {', '.join(names())}"
    return f"no data set and no folder is called {source!r}; {hint} (a path to a folder or a CSV works too)"
