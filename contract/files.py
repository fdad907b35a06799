"""Writes files aside and renames them, locks files, suggests names, and classifies file errors."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

LEFTOVERS = ".*.part"
"""Pattern of the temporary files that a killed process leaves beside the file that it wrote."""

NEAREST_CUTOFF = 0.5
"""Least difflib ratio (1 = equal) at which a name counts as a misspelling of another."""

_POLL_SECONDS = 0.05

_SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python puts for each byte of a file name that is no UTF-8; no file of text can hold it."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that last until somebody frees space."""

TRANSIENT = DISK_FULL | {
    number
    for name in (
        "EIO",  # a share whose server was away for longer than its mount waits; a disk on a loose cable
        "ESTALE",  # the server was restarted or a file replaced: the next open finds it by its name again
        "ETIMEDOUT",  # a soft NFS or a CIFS mount gave up on one request
        "ENOTCONN",  # FUSE: the program behind the mount has died and is being started again
        "ESHUTDOWN",  # Lustre and CIFS: the connection was closed under a request
        "EHOSTDOWN",  # CIFS: the server restarts
        "EREMOTEIO",  # the server's own disk failed the request
        "ENOLCK",  # the lock daemon of a share does not answer
        "EMFILE",  # others in this process hold too many files, and close them again
        "ENFILE",  # the same for the whole machine
    )
    if (number := getattr(errno, name, None)) is not None  # macOS has no EREMOTEIO
}
"""Errors that may be over in a moment and say nothing about the file.

Not among them, since waiting changes nothing: a file that is missing or forbidden, a read-only file system,
and ENETUNREACH, ECONNREFUSED and the like, which come from a download without a network and not from a disk.
"""


def find_os_error(error: BaseException | None, numbers: Collection[int] = TRANSIENT) -> OSError | None:
    """Find the OSError with one of these numbers behind an error; None without one.

    Libraries wrap them: torch.save turns one into a RuntimeError on its archive.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return error
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """Return an error's first line; client libraries append paragraphs of advice. Its type if it is empty."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


def printable(text: object) -> str:
    """Text that every terminal and file takes: bytes of a name that are no UTF-8 become question marks."""
    shown = str(text)
    if not _SURROGATES.search(shown):
        return shown
    try:
        return shown.encode(errors="surrogateescape").decode(errors="replace")
    except UnicodeEncodeError:  # a half of a character, as JSON may hold one
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", shown)


def is_text(name: str) -> bool:
    """True if all bytes of a file's name are UTF-8, so that databases and URLs can hold it."""
    return not _SURROGATES.search(name)


def plural(count: int, word: str) -> str:
    """Write a count with its noun: "1 image", "3,200 images"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def nearest_names(name: str, choices: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the choices most like an unknown name, the nearest first; case does not matter."""
    by_folded = {choice.casefold(): choice for choice in choices}
    near = get_close_matches(name.casefold(), by_folded, n=limit, cutoff=NEAREST_CUTOFF)
    return [by_folded[one] for one in near]


def did_you_mean(name: str, choices: Iterable[str], *, before: str = "") -> str:
    """A hint for an error about an unknown name: "did you mean lite0 or lite1?", or "" if none is near.

    Args:
        before: stands in front of the hint, if there is one.
    """
    near = nearest_names(name, choices)
    return f"{before}did you mean {' or '.join(near)}?" if near else ""


@contextmanager
def temporary_names(*paths: Path, scratch: Path | None = None) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary name for each path, unique among all processes on all machines and containers.

    The caller writes there and renames; whatever still stands there at the end is removed.

    Args:
        scratch: folder of the names, on the same file system; None = beside each path.
    """
    names = tuple((scratch or path.parent) / f".{path.name}.{secrets.token_hex(8)}.part" for path in paths)
    try:
        yield names
    finally:
        for name in names:
            with suppress(OSError):  # it must not hide why the caller failed
                _remove(name)


@contextmanager
def write_aside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name for a file; it is renamed to `path` at the end, or removed after an exception.

    Readers see the old file or the new one, never half of it. The file has the permissions that the process
    gives to new files.

    Args:
        durable: force content and name to the disk, so that they survive a loss of power (some milliseconds
            on an SSD, some tens on a disk or a share). False suits what can be made again.
    """
    with temporary_names(path) as (part,):
        yield part
        if durable:
            sync(part)
        part.replace(path)
        if durable:
            sync(path.parent)


def save_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as `write_aside` does."""
    with write_aside(path, durable=durable) as part:
        part.write_bytes(content)


def save_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file of UTF-8 text as `write_aside` does."""
    with write_aside(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


def save_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Replace a JSON file as `write_aside` does; indented, with letters of all languages as they are."""
    save_text(path, to_json(content), durable=durable)


def to_json(content: Any) -> str:
    """Render as JSON, with letters of all languages as they are.

    Bytes of a file name that are no UTF-8 are escaped, and read back as they were.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def fill_aside(
    path: Path, *, replace: bool = False, durable: bool = False, scratch: Path | None = None
) -> Iterator[Path]:
    """Yield a new temporary folder; it is renamed to `path` at the end, or removed after an exception.

    A killed process leaves no half of a folder under its name, but maybe a temporary one (LEFTOVERS).

    Args:
        replace: an older folder gives way; else it stays, and this one was made in vain: another process
            that makes the same was first.
        durable: force all files in it to the disk before it gets its name.
        scratch: where the temporary name lies, on the same file system; None = beside `path`.
    """
    with temporary_names(path, path, scratch=scratch) as (part, old):
        part.mkdir(parents=True)
        yield part
        path.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            _sync_tree(part)
        if replace and path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
                raise
            if replace or not path.is_dir():
                raise
        if durable:
            sync(path.parent)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes left of `name`, or of any file, in a folder.

    Nobody else may be writing it now: the caller holds a lock.
    """
    for leftover in folder.glob(f".{name}.*.part"):
        _remove(leftover)


def sync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no way to sync a folder; they write names at once.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(
    path: Path,
    *,
    shared: bool = False,
    timeout_seconds: float | None = None,
    create: bool = True,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Hold the kernel's lock on a file; it ends with the context, or with the process.

    Yields a descriptor of the locked file. The lock holds between threads, too; a second one on the same path
    inside the context waits for ever. A program that is started meanwhile does not inherit it.

    Args:
        shared: others may hold it shared at the same time.
        timeout_seconds: None waits for as long as it takes, 0 does not wait.
        create: make the file, and its folder, where there is none.

    Raises:
        BlockingIOError: another holds the lock, and did for that long.
        FileNotFoundError: there is no such file, and none was to be made.
    """
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_to_lock(path, create)
    try:
        _lock(descriptor, path, shared, timeout_seconds, clock, sleep)
        yield descriptor
    finally:
        os.close(descriptor)


def hold_shared(descriptor: int) -> None:
    """Mark a file as in use for as long as its descriptor is open; waits for an exclusive lock to end."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _open_to_lock(path: Path, create: bool) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
    except PermissionError:  # another user's, which may still be locked
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(
    descriptor: int,
    path: Path,
    shared: bool,
    timeout_seconds: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout_seconds is None:
        fcntl.flock(descriptor, kind)
        return
    deadline = clock() + timeout_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock() >= deadline:
                raise BlockingIOError(
                    errno.EWOULDBLOCK, "another process holds the lock", str(path)
                ) from None
        sleep(_POLL_SECONDS)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(root) / name)
        sync(Path(root))
