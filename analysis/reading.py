"""Studies on disk: finding one by its name, and reading study.json and the database (in plain SQL)."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from sqlalchemy import Connection, Engine, NullPool, TextClause, create_engine, inspect, text

from contract.sqlite_files import has_write_ahead_log, network_file_system

if TYPE_CHECKING:
    import pandas as pd

TRIAL_COLUMNS = {
    "study": "name of the study",
    "trial": "number of the trial in its study, from 0",
    "state": "complete | pruned | failed | infeasible | running | waiting",
    "reason": "why it failed: diverged | out of memory | data | bug",
    "traceback": "of a failure",
    "recipe": "name of the published recipe it runs",
    "worker": "where it ran",
    "attempts": "times it was started",
    "seconds": "wall time over all attempts [s]; of a running trial: from its start to its newest epoch",
    "epochs": "epochs recorded",
    "best_epoch": "epoch with the best value of the study's metric, from 1",
    "started": "unix time of its start [s]",
    "ended": "unix time of its end [s]",
}
"""First columns of a trial's row. Then come its hyperparameters under their own names (`epochs` as
`max_epochs`), then the metrics of its best epoch (`learning_rate` stays the hyperparameter)."""

ROWS_AT_ONCE = 10_000

_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """What study.json says, with the parts that the analysis needs by name."""

    directory: Path
    name: str
    created: str
    space: str
    data: str
    metric: str
    """The metric that ranks trials: the first, if the study has several."""

    maximize: bool
    status: str
    """new, running, finished, stopped (interrupted, or out of time) or failed."""

    storage_url: str
    facts: Mapping[str, Any]
    """The whole of study.json."""

    @property
    def key(self) -> str:
        """Tells this study from an earlier one of the same name whose directory was deleted."""
        return f"{self.name}@{self.created}"


def find_study(study: str | Path, *, runs_dir: Path = Path("runs")) -> Path:
    """The absolute directory of a study, given as a directory or as a name under `runs_dir`.

    Raises:
        ValueError: there is none; the message holds the nearest names.
    """
    for candidate in (Path(study), runs_dir / study):
        if (candidate / "study.json").is_file():
            return candidate.resolve()
    known = list_studies(runs_dir)
    near = get_close_matches(Path(study).name, known, n=3, cutoff=0.4) or known[:5]
    hint = f"did you mean {', '.join(near)}?" if near else f"{runs_dir} holds no study"
    raise ValueError(f"no study {str(study)!r}: {hint}")


def list_studies(runs_dir: Path) -> list[str]:
    """Names of the studies under a directory, in alphabetical order."""
    return sorted(path.parent.name for path in runs_dir.glob("*/study.json"))


def load_study(directory: Path) -> StudyInfo:
    """Read study.json.

    Raises:
        ValueError: there is no readable study.json.
    """
    path = directory / "study.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        data = facts.get("data") or {}
        return StudyInfo(
            directory=directory.resolve(),
            name=facts["study"],
            created=str(facts["created"]),
            space=facts["space"],
            data=Path(str(data.get("source", ""))).name,
            metric=facts["metric"].split(",")[0],
            maximize=facts["direction"].split(",")[0] == "maximize",
            status=facts["status"],
            storage_url=facts["storage"],
            facts=facts,
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error!r}") from error


def make_engine(study: StudyInfo) -> Engine:
    """An engine that only reads. SQLite beside study.json wins over the recorded path: studies move."""
    path = study.directory / "study.db"
    if not study.storage_url.startswith("sqlite"):
        return create_engine(study.storage_url, poolclass=NullPool)
    if not path.is_file():
        path = Path(unquote(study.storage_url.removeprefix("sqlite:///")))
    if not path.is_file():
        raise ValueError(f"study {study.name!r} has no database yet: {path} does not exist")
    # Readers of a write-ahead log share memory, which neither a read-only directory nor a network file system
    # can hold. Without a log beside the file nobody writes it, so it can be read as it lies there.
    has_no_room = not os.access(path.parent, os.W_OK) or (
        has_write_ahead_log(path) and network_file_system(path) is not None
    )
    frozen = has_no_room and not path.with_name(path.name + "-wal").exists()
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if frozen else ''}"
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=30), poolclass=NullPool
    )


@contextmanager
def connect(study: StudyInfo) -> Iterator[tuple[Connection, int]]:
    """A connection to the study database, and the study's id in it."""
    engine = make_engine(study)
    with engine.connect() as connection:
        query = text("SELECT study_id FROM studies WHERE study_name = :name")
        study_id = connection.execute(query, {"name": study.name}).scalar()
        if study_id is None or not inspect(connection).has_table("epochs"):
            raise ValueError(f"study {study.name!r} has no records yet")
        yield connection, study_id
    engine.dispose()


def load_trial_rows(study: StudyInfo) -> list[dict[str, Any]]:
    """One dict a trial, in the order of their numbers; keys as in TRIAL_COLUMNS."""
    with _without_collection(), connect(study) as (connection, study_id):
        heads = _read_trials(connection, study_id)
        attributes = _read_attributes(connection, study_id)
        curves = _read_best_epochs(connection, study_id, metric=study.metric, maximize=study.maximize)
        return [
            _trial_row(study, head, attributes.get(head["trial_id"], {}), curves.get(head["trial"], {}))
            for head in heads
        ]


@contextmanager
def _without_collection() -> Iterator[None]:
    """A million new objects without one cycle: looking for cycles takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_trials(study: StudyInfo) -> pd.DataFrame:
    """`load_trial_rows` as a frame."""
    import pandas as pd

    rows = load_trial_rows(study)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(TRIAL_COLUMNS))


def load_epochs(study: StudyInfo) -> pd.DataFrame:
    """One row an epoch: trial, epoch, attempt, arrival [unix s], decision, then the metrics."""
    import pandas as pd

    columns = ["trial", "epoch", "attempt", "arrival", "decision"]
    query = text(
        f"SELECT {', '.join(columns)}, metrics FROM epochs WHERE study_id = :id ORDER BY trial, epoch"
    )
    with connect(study) as (connection, study_id):
        records = connection.execute(query, {"id": study_id}).all()
    frame = pd.DataFrame([tuple(record[:5]) for record in records], columns=columns)
    metrics = pd.DataFrame([json.loads(record[5]) for record in records])
    return pd.concat([frame, metrics.drop(columns=columns, errors="ignore")], axis=1)


def read_epochs_since(
    connection: Connection, study_id: int, *, arrival: float
) -> list[tuple[int, int, float, dict[str, float]]]:
    """(trial, epoch, arrival, metrics) of every epoch that arrived at `arrival` or later."""
    query = text(
        "SELECT trial, epoch, arrival, metrics FROM epochs WHERE study_id = :id AND arrival >= :arrival "
        "ORDER BY trial, epoch"
    )
    rows = connection.execute(query, {"id": study_id, "arrival": arrival})
    return [(trial, epoch, at, json.loads(metrics)) for trial, epoch, at, metrics in rows]


def read_states(connection: Connection, study_id: int) -> dict[int, str]:
    """Optuna's state of every trial, by trial number."""
    query = text("SELECT number, state FROM trials WHERE study_id = :id")
    return {row.number: row.state for row in connection.execute(query, {"id": study_id})}


def read_extent(connection: Connection, study_id: int) -> list[Any]:
    """Every trial's state, the number of epochs and the newest arrival: any change of a study shows here."""
    epochs = text("SELECT COUNT(*), MAX(arrival) FROM epochs WHERE study_id = :id")
    counts = list(connection.execute(epochs, {"id": study_id}).one())
    return [sorted(read_states(connection, study_id).items()), *counts]


def read_trial_row(connection: Connection, study_id: int, *, study: StudyInfo, trial: int) -> dict[str, Any]:
    """One trial's row without its epochs: how it stands, and its hyperparameters."""
    where = "t.study_id = :id AND t.number = :number"
    parameters = {"id": study_id, "number": trial}
    query = text(
        f"SELECT number AS trial, state, datetime_start, datetime_complete FROM trials t WHERE {where}"
    )
    head = connection.execute(query, parameters).mappings().one()
    query = text(
        "SELECT a.key, a.value_json FROM trial_user_attributes a "
        f"JOIN trials t ON t.trial_id = a.trial_id WHERE {where}"
    )
    attributes = {row.key: json.loads(row.value_json) for row in connection.execute(query, parameters)}
    return _trial_row(study, dict(head), attributes, {})


def read_rows(connection: Connection, query: TextClause, study_id: int) -> Iterator[Any]:
    """Rows of a large query, fetched by the thousand: one by one costs half a second for 300,000 epochs."""
    for rows in connection.execute(query, {"id": study_id}).partitions(ROWS_AT_ONCE):
        yield from rows


def _read_trials(connection: Connection, study_id: int) -> list[dict[str, Any]]:
    query = text(
        "SELECT trial_id, number AS trial, state, datetime_start, datetime_complete FROM trials "
        "WHERE study_id = :id ORDER BY number"
    )
    return [dict(row) for row in connection.execute(query, {"id": study_id}).mappings()]


def _read_attributes(connection: Connection, study_id: int) -> dict[int, dict[str, Any]]:
    query = text(
        "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a "
        "JOIN trials t ON t.trial_id = a.trial_id WHERE t.study_id = :id"
    )
    attributes: dict[int, dict[str, Any]] = {}
    for trial_id, key, value in read_rows(connection, query, study_id):
        attributes.setdefault(trial_id, {})[key] = json.loads(value)
    return attributes


def _read_best_epochs(
    connection: Connection, study_id: int, *, metric: str, maximize: bool
) -> dict[int, dict[str, Any]]:
    """Of each trial: epochs, newest arrival, best epoch and its metrics, in one pass.

    Only the ranking metric is cut out of each row: parsing all JSON of 300,000 epochs takes several times as
    long, and SQLite's own JSON functions refuse a row that holds NaN.
    """
    pattern = re.compile(rf'"{re.escape(metric)}":\s*(-?[0-9][0-9.eE+-]*)')
    sign = 1.0 if maximize else -1.0
    query = text(
        "SELECT trial, epoch, arrival, metrics FROM epochs WHERE study_id = :id ORDER BY trial, epoch"
    )
    newest: dict[int, tuple[int, float]] = {}
    best: dict[int, tuple[float, int, str]] = {}
    for trial, epoch, arrival, metrics in read_rows(connection, query, study_id):
        newest[trial] = (epoch, arrival)
        found = pattern.search(metrics)
        if found is None:
            continue
        value = sign * float(found[1])
        if trial not in best or value > best[trial][0]:
            best[trial] = (value, epoch, metrics)
    curves: dict[int, dict[str, Any]] = {}
    for trial, (epoch, arrival) in newest.items():
        _, best_epoch, metrics = best.get(trial, (0.0, None, "{}"))
        curves[trial] = {"epochs": epoch, "arrival": arrival, "best_epoch": best_epoch, "metrics": metrics}
    return curves


def _trial_row(
    study: StudyInfo, head: Mapping[str, Any], attributes: Mapping[str, Any], curve: Mapping[str, Any]
) -> dict[str, Any]:
    started, ended = _unix_time(head["datetime_start"]), _unix_time(head["datetime_complete"])
    arrival = curve.get("arrival")
    seconds = attributes.get("seconds")
    if seconds is None and started is not None and arrival is not None:
        seconds = max(0.0, arrival - started)
    row = {
        "study": study.name,
        "trial": head["trial"],
        "state": attributes.get("outcome") or _STATES[head["state"]],
        "reason": attributes.get("reason"),
        "traceback": attributes.get("traceback"),
        "recipe": attributes.get("recipe") or attributes.get("prior"),  # "prior" before version 0.2
        "worker": attributes.get("worker"),
        "attempts": attributes.get("attempts"),
        "seconds": seconds,
        "epochs": curve.get("epochs", 0),
        "best_epoch": curve.get("best_epoch"),
        "started": started,
        "ended": ended,
    }
    for name, value in (attributes.get("config") or {}).items():
        row["max_epochs" if name == "epochs" else name] = value
    metrics = json.loads(curve.get("metrics", "{}"))
    return row | {
        name: _finite(value) for name, value in metrics.items() if name not in row and name != "epoch"
    }


def _finite(value: float | None) -> float | None:
    """NaN and infinity as None: they have no JSON, and no place in a ranking."""
    return value if value is None or math.isfinite(value) else None


def _unix_time(stored: str | datetime | None) -> float | None:
    """Optuna stores naive UTC; SQLite hands it out as text."""
    if stored is None:
        return None
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment.replace(tzinfo=UTC).timestamp()
