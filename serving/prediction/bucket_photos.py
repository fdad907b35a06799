"""Lists and reads the photos of a bucket (s3://, gs://), through fsspec, which is imported only then."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from contract.buckets import OPTIONS, PACKAGES, describe_fault
from contract.image_names import is_hidden, is_image

WILDCARDS = "*?["


@cache
def _connect(scheme: str) -> Any:
    """Make the file system of a protocol; no request is sent yet."""
    import fsspec

    try:
        # A cache of listings would keep every object that was ever listed.
        return fsspec.filesystem(scheme, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except ImportError as error:
        package = PACKAGES.get(scheme)
        hint = f"{package} is not installed: pip install {package}" if package else str(error)
        raise ValueError(f"{scheme}://: {hint}") from None
    except ValueError as error:
        raise ValueError(f"{scheme}://: {error}; pass s3://bucket/folder or gs://bucket/folder") from None


def forget_connections() -> None:
    """Make new connections from now on, as a process with other credentials needs."""
    _connect.cache_clear()


def find(url: str) -> Iterator[str]:
    """Yield the URLs of a folder's objects in the order of names, or those that a pattern matches.

    Raises:
        ValueError: the URL is wrong, or needs a package.
        OSError: the bucket cannot be read; in one line, why and what to do.
    """
    scheme, _, rest = url.partition("://")
    if ":" in rest.partition("/")[0]:  # no bucket's name has one
        raise ValueError(
            f"{scheme}://…: a URL with a password would end up in logs; give it in the environment or in the"
            " library's own configuration"
        )
    files = _connect(scheme)
    try:
        for key in _find(files, rest.rstrip("/")):
            yield f"{scheme}://{key}"
    except Exception as error:  # whatever the bucket's library raises becomes one line
        raise OSError(f"cannot read {url}: {describe_fault(error)}") from error


def _find(files: Any, path: str) -> Iterator[str]:
    is_pattern = any(one in path for one in WILDCARDS)
    if is_pattern and not files.exists(path):
        yield from sorted(key for key in files.glob(path) if files.isfile(key))
    elif files.isfile(path) or (is_image(path.rpartition("/")[2]) and not files.isdir(path)):
        yield path  # one that is missing is found out, and kept with its error, where it is read
    else:
        yield from _walk(files, path)


def _walk(files: Any, folder: str) -> Iterator[str]:
    objects: list[str] = []
    folders: list[str] = []
    for entry in files.ls(folder, detail=True):
        name = str(entry["name"])
        if name.strip("/") == folder.strip("/"):  # the mark by which some tools make a folder
            continue
        (folders if entry["type"] == "directory" else objects).append(name)
    yield from sorted(objects)
    for name in sorted(folders):
        if not is_hidden(name.rstrip("/").rpartition("/")[2]):
            yield from _walk(files, name.rstrip("/"))


def read(url: str) -> bytes:
    """Read an object.

    Raises:
        OSError: it is missing or cannot be read; in one line, why.
    """
    scheme, _, path = url.partition("://")
    try:
        content: bytes = _connect(scheme).cat_file(path)
    except FileNotFoundError:
        raise OSError("no such object") from None
    except Exception as error:  # whatever the bucket's library raises becomes the error of its row
        raise OSError(describe_fault(error)) from error
    return content
