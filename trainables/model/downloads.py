"""Downloads from servers that may be slow, silent or gone: every wait for them has an end."""

from __future__ import annotations

import errno
import http.client
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TIMEOUT_SECONDS = 10.0
"""A question that is not answered by then counts as unanswered."""

STALL_SECONDS = 120.0
"""A transfer that has not moved on for so long is given up. The hub's client writes 10 MB at a time, so this
is also the slowest connection that is taken: 85 kB a second."""

_WATCH_SECONDS = 0.5

Result = TypeVar("Result")


class Unreachable(ConnectionError):
    """A server does not answer, or stopped in the middle: the same attempt may succeed later."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT  # so that it is recognised beside the system's own errors of this kind


class Transfer:
    """How a download in another thread is getting on."""

    def __init__(self) -> None:
        self.moved_at = time.monotonic()
        self.given_up = False

    def moved(self) -> None:
        """Note that data arrived; ends the download if nobody waits for it any more."""
        if self.given_up:
            raise Unreachable("given up")
        self.moved_at = time.monotonic()


def watch(
    work: Callable[[Transfer], Result], *, seconds: float, size: Callable[[], int] | None = None
) -> Result:
    """The result of `work`, which runs in a thread, since a silent name server or proxy heeds no timeout.

    Args:
        seconds: the longest time without progress.
        size: bytes on disk so far, for work that does not call `Transfer.moved` itself.

    Raises:
        Unreachable: there was no progress for that long. Whatever `work` raises is raised here, too.
    """
    transfer = Transfer()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(transfer))
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    last_size = 0
    while True:
        thread.join(min(seconds, _WATCH_SECONDS))
        if not thread.is_alive():
            break
        if size is not None and (now := size()) != last_size:
            last_size, transfer.moved_at = now, time.monotonic()
        if time.monotonic() - transfer.moved_at >= seconds:
            transfer.given_up = True
            raise Unreachable(f"no progress for {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def first_line(error: BaseException) -> str:
    """What the error says, without the paragraphs of advice that client libraries append."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


def downloaded_file(url: str) -> Path:
    """Where torch keeps what it downloaded from there."""
    home = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")
    return home.expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]


def is_offered(url: str) -> bool:
    """True if the server says within a few seconds that it has the file."""

    def ask(_: Transfer) -> bool:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # honours the proxy variables
            return True

    try:
        return watch(ask, seconds=TIMEOUT_SECONDS)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def download(url: str) -> Path:
    """Download to where torch keeps such files; the part of a hash that the file's name has is checked.

    torch's `load_state_dict_from_url` would also unpickle the file, here and without limits.

    Raises:
        Unreachable: the transfer failed; nothing is left where a later run would take it for the file.
    """
    from torch.hub import HASH_REGEX, download_url_to_file

    target = downloaded_file(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    match = HASH_REGEX.search(target.name)

    def partly() -> int:
        return sum(path.stat().st_size for path in target.parent.glob(f"{target.name}.*.partial"))

    def fetch(_: Transfer) -> None:
        download_url_to_file(url, str(target), hash_prefix=match and match[1], progress=False)

    try:
        watch(fetch, seconds=STALL_SECONDS, size=partly)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise Unreachable(f"{url} could not be downloaded: {first_line(error)}") from error
    except (RuntimeError, http.client.HTTPException) as error:  # RuntimeError: the hash is another one
        raise Unreachable(f"{url} could not be downloaded: {first_line(error)}") from error
    return target
