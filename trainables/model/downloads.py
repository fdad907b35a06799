"""Downloads weights, from a URL or the model hub, with limits, so that no download hangs in silence."""

from __future__ import annotations

import errno
import http.client
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from contract.files import DISK_FULL, first_line

TIMEOUT_SECONDS = 10.0
"""Longest wait for the answer to a request."""

STALL_SECONDS = 120.0
"""A transfer without progress for so long is given up. The hub's client writes 10 MB at a time, so the
slowest usable connection has 85 kB per second."""

_WATCH_SECONDS = 0.5

Result = TypeVar("Result")


class Unreachable(ConnectionError):
    """Raised when a server does not answer, or stops midway: the same attempt may succeed later."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT  # so that it is recognised beside the system's own errors of this kind


class Transfer:
    """Progress of a download in another thread."""

    def __init__(self) -> None:
        self.moved_at = time.monotonic()
        self.given_up = False

    def moved(self) -> None:
        """Note that data arrived.

        Raises:
            Unreachable: no one waits for the download any more.
        """
        if self.given_up:
            raise Unreachable("given up")
        self.moved_at = time.monotonic()


def watch(
    work: Callable[[Transfer], Result], *, seconds: float, size: Callable[[], int] | None = None
) -> Result:
    """Run `work` in a thread and return its result: a silent name server or proxy ignores timeouts.

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


def downloaded_file(url: str) -> Path:
    """Path at which torch keeps the file of this URL."""
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
    """Download to where torch keeps such files; the part of the hash in the file's name is checked.

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
        if error.errno in DISK_FULL:
            raise
        raise Unreachable(f"{url} could not be downloaded: {first_line(error)}") from error
    except (RuntimeError, http.client.HTTPException) as error:  # RuntimeError: the hash is another one
        raise Unreachable(f"{url} could not be downloaded: {first_line(error)}") from error
    return target


FILES = ("model.safetensors", "pytorch_model.bin")
"""Names that weights have in a repository, the preferred one first."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """One version of one file of a repository."""

    revision: str
    """The commit."""

    name: str
    digest: str
    """sha256 of the content; empty where the hub does not give it."""


class NotOffered(Exception):
    """Raised when the hub was not asked, did not answer, or lacks the file; the message says which."""


def find_cached(repository: str) -> HubFile | None:
    """Find the version on this machine: the one that `main` was when last asked, else the newest download.

    A download by commit, as this project makes it, writes no reference, so the snapshots are looked through.
    """
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    for name in FILES:
        path = try_to_load_from_cache(repository, name, cache_dir=HF_HUB_CACHE)
        if isinstance(path, str):
            return HubFile(Path(path).parent.name, name, _digest_of_blob(Path(path)))
    if not Path(HF_HUB_CACHE).is_dir():
        return None
    found = [repo for repo in scan_cache_dir(HF_HUB_CACHE).repos if repo.repo_id == repository]
    revisions = [revision for repo in found for revision in repo.revisions]
    for revision in sorted(revisions, key=lambda one: one.last_modified, reverse=True):
        paths = {file.file_name: Path(file.file_path) for file in revision.files}
        for name in FILES:
            if name in paths:
                return HubFile(revision.commit_hash, name, _digest_of_blob(paths[name]))
    return None


def _digest_of_blob(path: Path) -> str:
    """Large files are stored under the sha256 that the hub gave for them."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def find_newest(repository: str) -> HubFile:
    """Find the version that the hub offers now; only headers are requested.

    Raises:
        NotOffered: HF_HUB_OFFLINE is set, there is no answer in time, or there is no such file.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise NotOffered("HF_HUB_OFFLINE forbids asking the hub")
    for name in FILES:
        url = hf_hub_url(repository, name)
        try:
            found = watch(partial(_ask, url), seconds=TIMEOUT_SECONDS)
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            status = error.response.status_code
            token = "; if it needs a login, set HF_TOKEN" if status in (401, 403, 404) else ""
            raise NotOffered(f"{constants.ENDPOINT} refuses {repository} (status {status}{token})") from error
        except Exception as error:  # the client's HTTP library has errors of its own; the message tells
            raise NotOffered(f"{constants.ENDPOINT} does not answer ({first_line(error)})") from error
        if not found.commit_hash:
            raise NotOffered(f"{constants.ENDPOINT} does not answer like a hub (it names no commit)")
        digest = found.etag if found.etag and _SHA256.fullmatch(found.etag) else ""
        return HubFile(found.commit_hash, name, digest)
    raise NotOffered(f"{constants.ENDPOINT} has none in {repository}")


def _ask(url: str, _: Transfer) -> Any:
    from huggingface_hub import get_hf_file_metadata

    return get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS)


def find_file(repository: str, name: str, revision: str) -> Path | None:
    """Path of this version of the file on this machine, if it is there; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    path = try_to_load_from_cache(repository, name, cache_dir=HF_HUB_CACHE, revision=revision)
    return Path(path) if isinstance(path, str) else None


def download_file(repository: str, name: str, revision: str) -> Path:
    """Download this version of the file into the hub's cache.

    Its client writes to a temporary name and renames it once the size is right, and takes up a cut transfer
    where it ended.

    Raises:
        Unreachable: the transfer failed or stood still; the message is one line with a way out.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils import tqdm

    def fetch(transfer: Transfer) -> str:
        class Bar(tqdm):  # type: ignore[misc]
            """Shows nothing; tells the watcher that data arrived."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                transfer.moved()
                return super().update(n)

        path: str = hf_hub_download(repository, name, revision=revision, tqdm_class=Bar)
        return path

    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # it warns of every attempt; the error below says it once
    try:
        return Path(watch(fetch, seconds=STALL_SECONDS))
    except Exception as error:  # the client's HTTP library has errors of its own; the message tells
        if isinstance(error, OSError) and error.errno in DISK_FULL | {errno.EACCES, errno.EROFS}:
            raise
        cause = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise Unreachable(
            f"{repository} at {revision[:12]} could not be downloaded from {constants.ENDPOINT} ({cause}): "
            f"run the same command again, or, on a machine with network, `hf download {repository} {name} "
            f"--revision {revision}`, and copy its HF_HOME here"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
