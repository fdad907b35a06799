"""A folder of images in a bucket (s3://, gs://): listed like a local one, and copied once to every machine.

A copy's name holds the object's version, `rose/1~5f2c90ab.jpg`: an object that changed is another file, one
that did not is not copied again, and on every machine the same path means the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from contract.buckets import OPTIONS, PACKAGES, describe_fault
from contract.files import DISK_FULL, file_lock
from contract.image_names import is_hidden, is_image
from contract.study_layout import CachePaths
from trainables.data.datasets._copies import keep_copies, measure_size, read_size, write_size
from trainables.data.datasets._layout import explain_nothing, explain_one_class, read_layout
from trainables.data.datasets._listing import ImageListing, ListedImage, make_listing, take_sample
from trainables.data.datasets._tree import build_tree

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
RoomFor = Callable[[int], AbstractContextManager[bool]]
Answer = TypeVar("Answer")

ANSWER_SECONDS = 20.0
"""Longest wait for a bucket's first answer."""

LIST_SECONDS = 600.0
"""Longest wait for the list of all objects."""

BYTES_PER_SECOND = 100_000
"""Slowest transfer that is waited for: a chunk that takes longer counts as stuck."""

CHUNK = 128
"""Objects copied in one request."""

TRIES = 3
# What protocols call the version of an object; the first that is there counts.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")


class Object(NamedTuple):
    """An object of the bucket and where its copy lies."""

    key: str
    relative: PurePosixPath
    size: int
    copy: Path


def list_bucket(url: str, *, cache_dir: Path) -> ImageListing:
    """List the class folders below `url` by the rules of local folders; a sample is copied to learn sizes.

    Raises:
        ValueError: in one line, what is wrong with the URL, or with what lies there.
        OSError: the bucket cannot be read; in one line, why and what to do.
    """
    address = url.rstrip("/")
    objects, paths = _find_objects(_connect(url), url, cache_dir)
    tree = build_tree(PurePosixPath(address).name, paths)
    if not tree.full:
        raise ValueError(explain_nothing(tree, address))
    if deeper := explain_one_class(tree, address):
        raise ValueError(deeper)
    found, notes = read_layout(tree, address)
    if not found:
        raise ValueError(explain_nothing(tree, address))
    copies = {str(image.relative): image.copy for image in objects}
    rows = [ListedImage(copies[row.path], row.label, row.split, row.name) for row in found]
    listing = make_listing(url, rows, notes)
    copy_missing(url, take_sample(listing.paths), cache_dir=cache_dir)
    return listing


def copy_missing(
    url: str,
    paths: Sequence[Path],
    *,
    cache_dir: Path,
    room_for: RoomFor = lambda _: nullcontext(True),
    progress: Progress | None = None,
) -> None:
    """Copy those of `paths`, from `list_bucket`, that this machine lacks; of several processes, one copies.

    While this process lives the copies stay; later they are removed when the cache needs their room.

    Args:
        room_for: context that is true if so many more bytes may be used; they are to be taken within it.

    Raises:
        OSError: the bucket cannot be read, listed images have changed or are gone, or the disk is full.
    """
    folder = _folder_of(url, cache_dir)
    keep_copies(folder)
    if all(path.exists() for path in paths):
        return
    with file_lock(folder.with_suffix(".lock")):
        missing = {path for path in paths if not path.exists()}
        if not missing:
            return
        files = _connect(url)
        objects = [found for found in _find_objects(files, url, cache_dir)[0] if found.copy in missing]
        gone = missing.difference(found.copy for found in objects)
        if gone:
            first = min(gone).relative_to(folder)
            raise OSError(
                f"{url}: {len(gone)} images were changed or removed since the study began, first {first}"
            )
        size = sum(found.size for found in objects)
        with room_for(size) as is_within_budget:
            _check_room(folder, size)
            if not is_within_budget:
                raise OSError(
                    f"{url}: the cache in {cache_dir} has no room for {size / 1e9:.2g} GB of images"
                    " within its budget: pass a larger --cache-gb"
                )
            write_size(folder, read_size(folder) + size)
        done = len(paths) - len(missing)
        try:
            for start in range(0, len(objects), CHUNK):
                chunk = objects[start : start + CHUNK]
                _copy(files, url, chunk)
                done += len(chunk)
                if progress:
                    progress(done, len(paths))
        finally:
            write_size(folder, measure_size(folder))


def _folder_of(url: str, cache_dir: Path) -> Path:
    address = url.rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    return CachePaths(cache_dir.absolute()).datasets / f"{PurePosixPath(address).name}-{digest}"


def _connect(url: str) -> Any:
    """Make the file system of the URL's protocol; no request is sent yet."""
    import fsspec

    parts = urlsplit(url)
    if ":" in parts.netloc:  # no bucket's name has one; a secret with a slash ends the netloc early
        raise ValueError(
            f"--data {parts.scheme}://…: a URL with a password would end up in logs and in"
            " study.json; give it in the environment or in the library's own configuration"
        )
    if url.lower().endswith(".csv"):
        raise ValueError(f"{url}: CSV files are read from a file system; pass the folder above the classes")
    try:
        return fsspec.filesystem(parts.scheme, **OPTIONS.get(parts.scheme, {}))
    except ImportError as error:
        package = PACKAGES.get(parts.scheme)
        hint = f"{package} is not installed: pip install {package}" if package else str(error)
        raise ValueError(f"--data {url}: {hint}") from None
    except ValueError as error:
        raise ValueError(
            f"--data {url}: {error}; pass s3://bucket/folder, gs://bucket/folder or a path"
        ) from None


def _find_objects(files: Any, url: str, cache_dir: Path) -> tuple[list[Object], list[PurePosixPath]]:
    """List the images of the bucket's folder, and the paths of all objects below it."""
    root = str(files._strip_protocol(url)).rstrip("/")
    _ask(url, lambda: files.info(root), seconds=ANSWER_SECONDS)
    files.invalidate_cache()
    found = _ask(url, lambda: files.find(root, detail=True), seconds=LIST_SECONDS)
    folder = _folder_of(url, cache_dir)
    objects, paths = [], []
    for key, about in found.items():
        relative = PurePosixPath(key[len(root) :].lstrip("/"))
        if ".." in relative.parts:
            continue  # such a key must not lead out of the cache
        paths.append(relative)
        if any(is_hidden(part) for part in relative.parts) or not is_image(relative.name):
            continue
        version = next((str(about[name]) for name in _VERSIONS if about.get(name)), "")
        tag = hashlib.sha256(f"{version} {about['size']}".encode()).hexdigest()[:8]
        copy = folder / relative.with_name(f"{relative.stem}~{tag}{relative.suffix}")
        objects.append(Object(key, relative, int(about["size"]), copy))
    return objects, paths


def _copy(files: Any, url: str, objects: Sequence[Object]) -> None:
    """Copy to temporary names and rename, so that a file with its name is whole; failures are tried again."""
    for parent in {found.copy.parent for found in objects}:
        parent.mkdir(parents=True, exist_ok=True)
    partial = [found.copy.with_name(f".{found.copy.name}.partial") for found in objects]
    seconds = ANSWER_SECONDS + sum(found.size for found in objects) / BYTES_PER_SECOND

    def get() -> None:
        files.get([found.key for found in objects], [str(path) for path in partial])

    for left in reversed(range(TRIES)):
        try:
            _ask(url, get, seconds=seconds)
            break
        except OSError as error:
            if not left or error.errno in DISK_FULL:
                raise
            time.sleep(2.0)
    for found, path in zip(objects, partial, strict=True):
        if path.stat().st_size != found.size:
            raise OSError(f"{url}: {found.relative} was changed while it was copied; run the same line again")
        path.replace(found.copy)


def _check_room(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{size / 1e9:.1f} GB of images do not fit into {folder} ({free / 1e9:.1f} GB free):"
            " choose another disk with --cache-dir"
        )


def _ask(url: str, work: Callable[[], Answer], *, seconds: float) -> Answer:
    """Run a request of a cloud library, which has exceptions and retries of its own, within a time limit."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # whatever the cloud's library raises becomes one line below
            errors.append(error)

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(seconds)
    if answers:
        return answers[0]
    if errors and isinstance(errors[0], OSError) and errors[0].errno in DISK_FULL:
        raise errors[0]
    problem = describe_fault(errors[0]) if errors else f"no answer within {seconds:.0f} s: check the network"
    raise OSError(f"cannot read {url}: {problem}")
