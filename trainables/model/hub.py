"""The model hub: what of it is on this machine, which commit it offers, and one commit's file downloaded."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainables.model import downloads
from trainables.model.downloads import Transfer, Unreachable, first_line, watch

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
    """sha256 of the content; empty where the hub does not tell."""


class NotOffered(Exception):
    """The hub was not asked, did not answer, or does not have the file; the message says which."""


def find_cached(repository: str) -> HubFile | None:
    """The version on this machine: the one that `main` was when last asked, else the newest download.

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
    """The version that the hub offers now; asks for its headers only.

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
            found = watch(partial(_ask, url), seconds=downloads.TIMEOUT_SECONDS)
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

    return get_hf_file_metadata(url, timeout=downloads.TIMEOUT_SECONDS)


def find_file(repository: str, name: str, revision: str) -> Path | None:
    """This version of the file on this machine, without asking the hub."""
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
        return Path(watch(fetch, seconds=downloads.STALL_SECONDS))
    except Exception as error:  # the client's HTTP library has errors of its own; the message tells
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
        ):
            raise
        cause = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise Unreachable(
            f"{repository} at {revision[:12]} could not be downloaded from {constants.ENDPOINT} ({cause}): "
            f"run the same command again, or, on a machine with network, `hf download {repository} {name} "
            f"--revision {revision}`, and copy its HF_HOME here"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
