"""Copies a study from a cluster to this machine: packed by a small job there, read from its log here."""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import shlex
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from typing import IO

from cluster.flags import make_parser
from cluster.job_server import JobServer
from cluster.row_copy import copy_study_rows
from cluster.study_directory import write_json
from cluster.submission import wait_for_end
from cluster.working_directory import staged_project

LEFT_OUT = ("checkpoint*", ".*", "lock", "*-wal", "*-shm", "train")
"""Of a study directory: what only a running search needs."""
LINE_BYTES = 6000
_MARK = "unfreeze-study "


def fetch_study(server: JobServer, study: str, *, job: str | None, folder: Path) -> Path:
    """Copy a study directory of the cluster into `folder`; the copy's path.

    The copy is whole by itself: it has its own SQLite database, wherever the study's is.

    Raises:
        ValueError: there is no such study, or the copy exists already.
    """
    source = Path(study) if job is None else runs_dir_of(str(server.job(job).entrypoint)) / study
    if not source.is_absolute():
        raise ValueError(f"{study} is not an absolute path: pass one, or --from JOB with the study's name")
    target = folder / source.name
    if target.exists():
        raise ValueError(f"{target} exists already: remove it, or pass another --to")
    folder.mkdir(parents=True, exist_ok=True)
    with staged_project() as code:
        packing = server.submit(
            f"python -m cluster.study_copy {shlex.quote(str(source))}",
            runtime_env={"working_dir": str(code)},
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        package = Path(scratch) / "study.tar.gz"
        asyncio.run(_receive(server, packing, package))
        with tarfile.open(package) as archive:
            extract(archive, Path(scratch))
        (Path(scratch) / source.name).rename(target)
    return target


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack a study's copy: plain files and folders, and nothing outside `folder`.

    Raises:
        ValueError, tarfile.FilterError: the archive holds something else.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    for member in archive.getmembers():  # Python 3.11.0 to 3.11.3 have no filters
        place = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or place.is_absolute() or ".." in place.parts:
            raise ValueError(f"the copy holds {member.name!r}, which is no plain file of a study")
        member.mode &= 0o755
    archive.extractall(folder)


def runs_dir_of(entrypoint: str) -> Path:
    """The --runs-dir of a submitted tune.py.

    Raises:
        ValueError: the job is no search.
    """
    words = shlex.split(entrypoint)
    if "tune.py" not in words:
        raise ValueError(f"that job is no search: {entrypoint}")
    flags, _ = make_parser("tune.py").parse_known_args(words[words.index("tune.py") + 1 :])
    return Path(flags.runs_dir)


async def _receive(server: JobServer, job: str, package: Path) -> None:
    """Decode the log of the packing job into a file.

    Raises:
        ValueError: the job failed, with its reason; or the copy is not what was sent.
    """
    digest, announced, rest, other = hashlib.sha256(), "", "", ""
    with package.open("wb") as file:
        async for text in server.follow(job):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                kind, _, value = line.removeprefix(_MARK).partition(" ")
                if not line.startswith(_MARK):
                    other = line or other
                elif kind == "sha256":
                    announced = value
                else:
                    data = base64.b64decode(kind)
                    digest.update(data)
                    file.write(data)
    if await asyncio.to_thread(wait_for_end, server, job) != 0:
        raise ValueError(other.removeprefix("error: ") or f"job {job} failed")
    if announced != digest.hexdigest():
        raise ValueError("the copy is not whole: try again")


def pack_study(directory: Path) -> Iterator[str]:
    """The lines of the packing job's log.

    Raises:
        ValueError: there is no study.
    """
    if not (directory / "study.json").is_file():
        raise ValueError(f"no study at {directory}")
    with tempfile.TemporaryDirectory(prefix="unfreeze-pack-") as scratch:
        copy = Path(scratch) / directory.name
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(*LEFT_OUT, "study.db", "study.json"))
        copy_database(directory, copy)
        package = Path(scratch) / "study.tar.gz"
        with tarfile.open(package, "w:gz", compresslevel=1) as archive:
            archive.add(copy, arcname=directory.name)
        with package.open("rb") as file:
            yield from _encode(file)


def copy_database(source: Path, target: Path) -> None:
    """The study's rows as they are at one moment, in an SQLite file of the copy's own; study.json says so."""
    info = json.loads((source / "study.json").read_text(encoding="utf-8"))
    database = target / "study.db"
    if (source / "study.db").is_file():
        uri = f"file:{source / 'study.db'}?mode=ro"
        with ExitStack() as stack:
            original = stack.enter_context(closing(sqlite3.connect(uri, uri=True, timeout=30)))
            original.backup(stack.enter_context(closing(sqlite3.connect(database))))
    else:
        copy_study_rows(info["storage"], f"sqlite:///{database}", study=info["study"])
    write_json(target / "study.json", info | {"storage": f"sqlite:///{database.name}"})


def _encode(file: IO[bytes]) -> Iterator[str]:
    digest = hashlib.sha256()
    while data := file.read(LINE_BYTES):
        digest.update(data)
        yield _MARK + base64.b64encode(data).decode()
    yield f"{_MARK}sha256 {digest.hexdigest()}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.study_copy", description=__doc__)
    parser.add_argument("directory", type=Path)
    flags = parser.parse_args(argv)
    try:
        for line in pack_study(flags.directory):
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
