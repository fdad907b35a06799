"""Opens a study that has been searched, wherever its directory lies now, with the flags of its last run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cluster.study.config import StudyConfig
from cluster.study.directory import Study
from cluster.study.lock import acquire_lock
from cluster.study.records import Records
from contract.sqlite_files import sqlite_path, sqlite_url
from contract.study_layout import StudyPaths

OF_A_RUN = ("time_budget", "dry_run", "patience", "warm_start")
"""Flags that end or begin a search, and mean nothing once it is over."""


def config_of_study(
    directory: Path, *, storage: str | None = None, address: str | None = None, **changes: Any
) -> StudyConfig:
    """Read the flags of the study's last run; paths that follow from its place are those of its place now.

    Args:
        storage: its database; None = the file in its directory, or the server that was recorded, whose
            password is not: the client finds it in the environment.
        address: the Ray cluster to join; None = as recorded.
        changes: further flags to replace.

    Raises:
        ValueError: study.json is missing or damaged, or a flag does not fit this machine.
    """
    info = _read_facts(directory)
    directory = directory.absolute()
    known = {field.name for field in fields(StudyConfig)}
    flags = {name: value for name, value in info.get("flags", {}).items() if name in known - set(OF_A_RUN)}
    flags["backbones"] = tuple(flags.get("backbones") or ())
    before = Path(str(flags.get("runs_dir") or directory.parent))
    own_tracking = sqlite_url(StudyPaths(before / directory.name).tracking_database)
    if flags.get("tracking_uri") == own_tracking:
        flags["tracking_uri"] = None
    flags |= {"study": directory.name, "runs_dir": directory.parent, "space": info["space"]}
    flags["cache_dir"] = Path(flags["cache_dir"]) if flags.get("cache_dir") else None
    flags["storage"] = storage or _find_storage(directory, flags.get("storage"))
    if address is not None:
        flags["address"] = address
    return StudyConfig(**(flags | changes))


def reopen_study(config: StudyConfig) -> Study:
    """Lock the study and connect its database, which gets the tables that an earlier version had not.

    Unlike a search it writes nothing into study.json.

    Raises:
        ValueError: another process drives the study, its database is not there, or its directory cannot be
            written.
    """
    paths = StudyPaths(config.directory)
    info = _read_facts(config.directory)
    path = sqlite_path(config.storage_url)
    if path is not None and not path.is_file():  # opening would create an empty one
        raise ValueError(f"the study database {path} is not there: pass --storage")
    probe = paths.write_probe(os.getpid())
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{paths.directory} cannot be written ({error.strerror}): work on a copy of the study"
        ) from None
    lock = acquire_lock(paths.lock)
    try:
        records = Records(
            config.storage_url,
            study=info["study"],
            directions=info.get("directions") or [info["direction"]],
            metric=info["metric"],
            new=False,
        )
        records.take_over(lock.token)
    except BaseException:
        lock.release()
        raise
    return Study(directory=paths.directory, info=info, records=records, lock=lock, resumed=True)


def _read_facts(directory: Path) -> dict[str, Any]:
    path = StudyPaths(directory).facts
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(info, Mapping) or not {"study", "space", "metric", "data"} <= info.keys():
            raise ValueError("entries are missing")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error}") from None
    return dict(info)


def _find_storage(directory: Path, recorded: str | None) -> str | None:
    """The database beside study.json wins over the recorded one, as studies move."""
    if recorded is None or StudyPaths(directory).database.is_file():
        return None
    return recorded
