"""Copies a study from a cluster to this machine: a job packs it there, and waits until it is fetched.

The package travels as a file of the cluster's log folder, which its job server hands out whole; the job
deletes it as soon as it is fetched, and after KEEP_SECONDS at the latest.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import shlex
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing, closing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import sqlalchemy as sa
from optuna.storages._rdb import models

from cluster.jobs.server import JobServer
from cluster.jobs.submission import ENDED
from cluster.ray_tune.upload import staged_project
from cluster.study.database import open_storage, present_columns
from cluster.study.final_records import FINALS, READINGS
from cluster.study.flags import make_parser
from cluster.study.job_environment import CLUSTER_ADDRESS, DEFAULT_RUNS_DIR, job_runs_dir
from cluster.study.probe_records import PROBES
from cluster.study.records import EPOCHS
from contract.files import save_json
from contract.sqlite_files import read_only_uri, sqlite_path, sqlite_url
from contract.study_layout import RUNNING_ONLY, STUDY_FILE, StudyPaths, is_study

KEEP_SECONDS = 3600
"""Seconds for which a packed study waits to be fetched."""

_MARK = "unfreeze-study "
"""Beginning of the line in the job's log that announces the package."""

_STUDIES, _TRIALS = models.StudyModel.__table__, models.TrialModel.__table__


@dataclass(frozen=True, kw_only=True)
class Package:
    """A packed study: a file in the log folder of a node."""

    node_id: str
    name: str
    sha256: str


def fetch_study(server: JobServer, study: str, *, job: str | None, folder: Path) -> Path:
    """Copy a study directory of the cluster into `folder`, and return the copy's path.

    The copy stands alone: its database is an SQLite file of its own, wherever the study's is.

    Args:
        study: the directory on the cluster, or with `job` the study's name in that job's --runs-dir.

    Raises:
        ValueError: there is no such study, or the copy exists already.
    """
    source = Path(study) if job is None else runs_dir_of(str(server.job(job).entrypoint)) / study
    if job is None and not source.is_absolute():
        raise ValueError(f"{study} is not an absolute path: pass one, or --from JOB with the study's name")
    target = folder / source.name
    if target.exists():
        raise ValueError(f"{target} exists already: remove it, or pass another --to")
    folder.mkdir(parents=True, exist_ok=True)
    with staged_project() as code:
        packing = server.submit(
            f"python -m cluster.jobs.fetch {shlex.quote(str(source))}",
            runtime_env={"working_dir": str(code)},
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        file = Path(scratch) / "study.tar.gz"
        try:
            receive_package(server, packing, file)
        finally:
            end_packing(server, packing)
        with tarfile.open(file) as archive:
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
    """The --runs-dir of a submitted tune.py; the default stays relative and is replaced on the head node.

    Raises:
        ValueError: the job is no search.
    """
    words = shlex.split(entrypoint)
    if "tune.py" not in words:
        raise ValueError(f"that job is no search: {entrypoint}")
    flags, _ = make_parser("tune.py").parse_known_args(words[words.index("tune.py") + 1 :])
    return Path(flags.runs_dir)


def receive_package(server: JobServer, packing: str, file: Path) -> None:
    """Wait for the packing job's announcement, and copy what it announces into a file.

    Raises:
        ValueError: the job failed, with its reason; or the copy is not what was sent.
    """
    package = asyncio.run(_wait_for_package(server, packing))
    with file.open("wb") as content:
        server.download(package.name, node_id=package.node_id, target=content)
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != package.sha256:
            raise ValueError("the copy is not whole: try again")


async def _wait_for_package(server: JobServer, packing: str) -> Package:
    rest, last = "", ""
    async with aclosing(server.follow(packing)) as pieces:
        async for text in pieces:
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                if line.startswith(_MARK):
                    return Package(**json.loads(line.removeprefix(_MARK)))
                last = line or last
    raise ValueError(last.removeprefix("error: ") or f"job {packing} failed")


def end_packing(server: JobServer, packing: str) -> None:
    """Ask the packing job to end, and wait until it has deleted its package and ended."""
    server.stop(packing)
    while server.job(packing).status not in ENDED:
        time.sleep(0.2)


def pack_study(directory: Path, file: Path) -> str:
    """Pack a study into a file that only this user may read, and return its SHA-256.

    Raises:
        ValueError: there is no study.
    """
    if not is_study(directory):
        raise ValueError(f"no study at {directory}")
    file.touch(mode=0o600)
    with tempfile.TemporaryDirectory(prefix="unfreeze-pack-") as scratch:
        copy = Path(scratch) / directory.name
        paths = StudyPaths(directory)
        rewritten = (paths.database.name, STUDY_FILE)
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(*RUNNING_ONLY, *rewritten))
        copy_database(paths, StudyPaths(copy))
        with tarfile.open(file, "w:gz", compresslevel=1) as archive:
            archive.add(copy, arcname=directory.name)
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def copy_database(source: StudyPaths, target: StudyPaths) -> None:
    """Copy the study's rows as of one moment into an SQLite file of the copy, which its study.json names."""
    info = json.loads(source.facts.read_text(encoding="utf-8"))
    if source.database.is_file():
        uri = read_only_uri(source.database)
        with ExitStack() as stack:
            original = stack.enter_context(closing(sqlite3.connect(uri, uri=True, timeout=30)))
            original.backup(stack.enter_context(closing(sqlite3.connect(target.database))))
    else:
        copy_study_rows(info["storage"], sqlite_url(target.database), study=info["study"])
    save_json(target.facts, info | {"storage": sqlite_url(Path(target.database.name))})


def copy_study_rows(source: str, target: str, *, study: str) -> None:
    """Copy Optuna's rows and ours of one study, as of one moment, into the new database `target`.

    Raises:
        ValueError: a database cannot be opened, or `source` has no such study.
    """
    path = sqlite_path(source)
    if path is not None and not path.is_file():  # opening would create an empty one
        raise ValueError(f"the study database {path} is not there")
    there, here = open_storage(source), open_storage(target)
    known = (EPOCHS, PROBES, FINALS, READINGS)
    ours = [table for table in known if sa.inspect(there.engine).has_table(table.name)]
    for table in ours:
        table.create(here.engine, checkfirst=True)
    try:
        # One snapshot: a running search writes meanwhile. SQLite has no such level, but a transaction that
        # only reads sees the file as it was at its first question; Python's driver must be told to begin.
        is_file = there.engine.dialect.name == "sqlite"
        options = {} if is_file else {"isolation_level": "REPEATABLE READ"}
        snapshot = there.engine.execution_options(**options)
        with snapshot.connect() as reading, here.engine.begin() as writing:
            if is_file:
                reading.exec_driver_sql("BEGIN")
            name = _STUDIES.c.study_name == study
            study_id = reading.execute(sa.select(_STUDIES.c.study_id).where(name)).scalar()
            if study_id is None:
                raise ValueError(f"the study database holds no study named {study}")
            for table in (*models.BaseModel.metadata.sorted_tables, *ours):
                _copy_table(reading, writing, table, study_id=study_id)
    finally:
        for storage in (there, here):
            storage.remove_session()
            storage.engine.dispose()


def _copy_table(reading: sa.Connection, writing: sa.Connection, table: sa.Table, *, study_id: int) -> None:
    if "study_id" in table.c:
        wanted = table.c.study_id == study_id
    elif "trial_id" in table.c:
        trials = sa.select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
        wanted = table.c.trial_id.in_(trials)
    else:
        return  # tables of the database itself, such as its schema's version
    query = sa.select(*present_columns(reading, table)).where(wanted)
    rows = [dict(row) for row in reading.execute(query).mappings()]
    if rows:
        writing.execute(sa.insert(table), rows)


def offer_study(directory: Path, *, logs: Path, node_id: str) -> None:
    """Pack a study, announce the package, and delete it when this process is asked to end.

    Raises:
        ValueError: there is no study.
    """
    file = logs / f"unfreeze-study-{secrets.token_hex(8)}.tar.gz"
    signal.signal(signal.SIGTERM, _end)
    try:
        digest = pack_study(directory, file)
        package = Package(node_id=node_id, name=file.name, sha256=digest)
        print(_MARK + json.dumps(asdict(package)), flush=True)
        time.sleep(KEEP_SECONDS)
    finally:
        file.unlink(missing_ok=True)


def _end(*_: object) -> NoReturn:
    sys.exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.jobs.fetch", description=__doc__)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args(argv).directory
    if directory.parent == DEFAULT_RUNS_DIR:  # the searching job was given no --runs-dir
        directory = job_runs_dir() / directory.name
    try:
        if not is_study(directory):
            raise ValueError(f"no study at {directory}")
        logs, node_id = _find_log_folder()
        offer_study(directory, logs=logs, node_id=node_id)
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 1
    return 0


def _find_log_folder() -> tuple[Path, str]:
    """The log folder of the node that runs this job, and the node's id."""
    import ray
    from ray._private.worker import global_worker

    ray.init(address=CLUSTER_ADDRESS, log_to_driver=False, logging_level="ERROR")
    try:
        return Path(global_worker.node.get_logs_dir_path()), ray.get_runtime_context().get_node_id()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
