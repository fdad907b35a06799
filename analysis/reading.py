"""Finds a study by its name, and reads its study.json and, in plain SQL, its database."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, NullPool, TextClause, create_engine, inspect, text

from contract.files import did_you_mean, printable
from contract.messages import EpochDecision, Reason, State
from contract.metrics import METRICS, Direction, epoch_merit
from contract.sqlite_files import has_write_ahead_log, network_file_system, read_only_uri, sqlite_path
from contract.study_layout import StudyPaths, StudyStatus, study_directories
from contract.trial_config import TrialConfig, kept_epoch

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""One trial: TRIAL_COLUMNS, then its hyperparameters, then the metrics of its kept epoch, all by name."""

TRIAL_COLUMNS = {
    "study": "name of the study",
    "trial": "number of the trial in its study, from 0",
    "state": " | ".join(State),
    "reason": f"why it failed ({' | '.join(one for one in Reason if one is not Reason.DISK_FULL)}) or was "
    "stopped early",
    "traceback": "Python's traceback of a failure",
    "recipe": "name of the published recipe it runs",
    "worker": "where it ran",
    "attempts": "times it was started",
    "seconds": "wall time over all attempts [s]; of a running trial: from its start to its newest epoch",
    "epochs": "epochs recorded",
    "kept_at_epoch": "epoch whose metrics, weights and predictions are the trial's, by kept_epoch; from 1",
    "started": "unix time of its start [s]",
    "ended": "unix time of its end [s]",
}
"""First columns of a trial's row, with their meaning."""

EPOCH_COLUMNS = {
    "trial": "number of the trial in its study, from 0",
    "epoch": "from 1",
    "attempt": "which start of the trial reported it, from 1",
    "arrival": "when the epoch was recorded [unix s]",
    "decision": "what followed it: " + " | ".join(EpochDecision),
}
"""First columns of an epoch's row, with their meaning."""

HYPERPARAMETERS = tuple(field.name for field in fields(TrialConfig))

_OLD_HYPERPARAMETERS = {"epochs": "max_epochs"}
_OLD_METRICS = {"learning_rate": "last_learning_rate"}
"""Names in studies of version 0.1, and what they are called now."""

ROWS_AT_ONCE = 10_000

_OPTUNA_STATES = {
    "COMPLETE": State.COMPLETE,
    "PRUNED": State.PRUNED,
    "FAIL": State.FAILED,
    "RUNNING": State.RUNNING,
    "WAITING": State.WAITING,
}


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """Facts of study.json, the most used of them as attributes."""

    directory: Path
    name: str
    created: str
    space: str
    data: str
    metric: str
    """The metric that ranks trials: the first, if the study has several."""

    direction: Direction
    """Direction in which the search wanted that metric to go."""

    status: StudyStatus
    storage_url: str
    facts: Mapping[str, Any]
    """The whole of study.json."""

    @property
    def maximize(self) -> bool:
        return self.direction is Direction.MAXIMIZE

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.directory)

    @property
    def key(self) -> str:
        """Identity that tells this study from a deleted one of the same name."""
        return f"{self.name}@{self.created}"


def find_study(study: str | Path, *, runs_dir: Path = Path("runs")) -> Path:
    """Find the absolute directory of a study, given as a directory or as a name under `runs_dir`.

    Raises:
        ValueError: there is none; the message holds the nearest names.
    """
    for candidate in (Path(study), runs_dir / study):
        if StudyPaths(candidate).facts.is_file():
            return candidate.resolve()
    known = list_studies(runs_dir)
    choices = f"{runs_dir} holds {', '.join(known[:5]) or 'no study'}"
    hint = did_you_mean(Path(study).name, known) or choices
    raise ValueError(f"no study {str(study)!r}: {hint}")


def list_studies(runs_dir: Path) -> list[str]:
    """Names of the studies under a directory, in alphabetical order."""
    return [directory.name for directory in study_directories(runs_dir)]


def load_study(directory: Path) -> StudyInfo:
    """Read study.json.

    Raises:
        ValueError: there is no readable study.json.
    """
    path = StudyPaths(directory).facts
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        data = facts.get("data") or {}
        return StudyInfo(
            directory=directory.resolve(),
            name=facts["study"],
            created=str(facts["created"]),
            space=facts["space"],
            data=printable(Path(str(data.get("source", ""))).name),
            metric=facts["metric"].split(",")[0],
            direction=Direction(facts["direction"].split(",")[0]),
            status=StudyStatus(facts["status"]),
            storage_url=facts["storage"],
            facts=facts,
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error!r}") from error


def make_engine(study: StudyInfo) -> Engine:
    """Open the database read-only. One beside study.json wins over the recorded path, as studies move.

    Raises:
        ValueError: there is no such file.
    """
    path = study.paths.database
    if not study.storage_url.startswith("sqlite"):
        return create_engine(study.storage_url, poolclass=NullPool)
    if not path.is_file():
        path = sqlite_path(study.storage_url) or path
    if not path.is_file():
        raise ValueError(f"study {study.name!r} has no database yet: {path} does not exist")
    # Readers of a write-ahead log share memory, which neither a read-only directory nor a network file system
    # can hold. Without a log beside the file nobody writes it, so it can be read as it lies there.
    has_no_room = not os.access(path.parent, os.W_OK) or (
        # Asked first: to read the file's head and close it drops the locks that this process has on it.
        network_file_system(path) is not None and has_write_ahead_log(path)
    )
    frozen = has_no_room and not path.with_name(path.name + "-wal").exists()
    uri = read_only_uri(path, immutable=frozen)
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=30), poolclass=NullPool
    )


@contextmanager
def connect(study: StudyInfo) -> Iterator[tuple[Connection, int]]:
    """Yield a connection to the study database, and the study's id in it.

    Raises:
        ValueError: the search has not written anything yet.
    """
    engine = make_engine(study)
    with engine.connect() as connection:
        query = text("SELECT study_id FROM studies WHERE study_name = :name")
        study_id = connection.execute(query, {"name": study.name}).scalar()
        if study_id is None or not inspect(connection).has_table("epochs"):
            raise ValueError(f"study {study.name!r} has no records yet")
        yield connection, study_id
    engine.dispose()


def load_trial_rows(study: StudyInfo) -> list[Row]:
    """Load all trials in the order of their numbers."""
    with _without_collection(), connect(study) as (connection, study_id):
        heads = _read_trials(connection, study_id)
        attributes = _read_attributes(connection, study_id)
        rules = {head["trial"]: _kept_rule(attributes.get(head["trial_id"], {})) for head in heads}
        curves = _read_kept_epochs(connection, study_id, study=study, rules=rules)
        return [
            _trial_row(study, head, attributes.get(head["trial_id"], {}), curves.get(head["trial"], {}))
            for head in heads
        ]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the garbage collector: it takes a fifth of the time, and a million new rows hold no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_trials(study: StudyInfo) -> pd.DataFrame:
    """Load one row a trial, like `load_trial_rows`; an empty frame without trials."""
    import pandas as pd

    rows = load_trial_rows(study)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(TRIAL_COLUMNS))


def load_epochs(study: StudyInfo) -> pd.DataFrame:
    """Load one row an epoch: EPOCH_COLUMNS, then every number that it reported."""
    import pandas as pd

    columns = list(EPOCH_COLUMNS)
    query = text(
        f"SELECT {', '.join(columns)}, metrics FROM epochs WHERE study_id = :id ORDER BY trial, epoch"
    )
    with connect(study) as (connection, study_id):
        records = connection.execute(query, {"id": study_id}).all()
    frame = pd.DataFrame([tuple(record[:5]) for record in records], columns=columns)
    metrics = pd.DataFrame([_metrics_of(record[5]) for record in records])
    return pd.concat([frame, metrics], axis=1)


def read_epochs_since(
    connection: Connection, study_id: int, *, arrival: float
) -> list[tuple[int, int, float, dict[str, float]]]:
    """Load (trial, epoch, arrival [unix s], metrics) of the epochs that arrived at `arrival` or later."""
    query = text(
        "SELECT trial, epoch, arrival, metrics FROM epochs WHERE study_id = :id AND arrival >= :arrival "
        "ORDER BY trial, epoch"
    )
    rows = connection.execute(query, {"id": study_id, "arrival": arrival})
    return [(trial, epoch, at, _metrics_of(metrics)) for trial, epoch, at, metrics in rows]


def read_states(connection: Connection, study_id: int) -> dict[int, State]:
    """Load the state of every trial by its number. An infeasible one is pruned: Optuna has no word for it."""
    query = text("SELECT number, state FROM trials WHERE study_id = :id")
    return {row.number: _OPTUNA_STATES[row.state] for row in connection.execute(query, {"id": study_id})}


def read_extent(connection: Connection, study_id: int) -> list[Any]:
    """Return the trials' states, the number of epochs and the newest arrival: any change alters them."""
    epochs = text("SELECT COUNT(*), MAX(arrival) FROM epochs WHERE study_id = :id")
    counts = list(connection.execute(epochs, {"id": study_id}).one())
    return [sorted(read_states(connection, study_id).items()), *counts]


def read_trial_row(connection: Connection, study_id: int, *, study: StudyInfo, trial: int) -> Row:
    """Make a trial's row without its metrics: its state and its hyperparameters."""
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
    """Fetch the rows of a large query in blocks: one by one costs half a second for 300,000 epochs."""
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


def read_kept_rule(connection: Connection, study_id: int, *, trial: int) -> str:
    """Return the rule by which a trial keeps one epoch."""
    query = text(
        "SELECT a.value_json FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
        "WHERE t.study_id = :id AND t.number = :number AND a.key = 'config'"
    )
    stored = connection.execute(query, {"id": study_id, "number": trial}).scalar()
    return _kept_rule({} if stored is None else {"config": json.loads(stored)})


def _kept_rule(attributes: Mapping[str, Any]) -> str:
    return kept_epoch(attributes.get("config") or {})


def _read_kept_epochs(
    connection: Connection, study_id: int, *, study: StudyInfo, rules: Mapping[int, str]
) -> dict[int, dict[str, Any]]:
    """Return each trial's number of epochs, newest arrival, kept epoch and that one's metrics as JSON.

    Only the numbers that decide are cut out of each row: parsing all JSON of 300,000 epochs takes several
    times as long, and SQLite's own JSON functions refuse a row that holds NaN.
    """
    number = r'":\s*(-?[0-9][0-9.eE+-]*|NaN|-?Infinity)'
    metric, val_loss = (re.compile(f'"{re.escape(name)}{number}') for name in (study.metric, "val_loss"))
    query = text(
        "SELECT trial, epoch, arrival, metrics FROM epochs WHERE study_id = :id ORDER BY trial, epoch"
    )
    newest: dict[int, tuple[int, float]] = {}
    kept: dict[int, tuple[float, int, str]] = {}
    for trial, epoch, arrival, metrics in read_rows(connection, query, study_id):
        newest[trial] = (epoch, arrival)
        found = metric.search(metrics)
        if found is None:
            continue
        loss = val_loss.search(metrics) if rules[trial] == "lowest_loss" else None
        merit = epoch_merit(
            rules[trial],
            epoch,
            value=float(found[1]),
            loss=float(loss[1]) if loss else None,
            maximize=study.maximize,
        )
        if merit > (kept[trial][0] if trial in kept else -math.inf):
            kept[trial] = (merit, epoch, metrics)
    curves: dict[int, dict[str, Any]] = {}
    for trial, (epoch, arrival) in newest.items():
        _, at_epoch, metrics = kept.get(trial, (0.0, None, "{}"))
        curves[trial] = {"epochs": epoch, "arrival": arrival, "kept_at_epoch": at_epoch, "metrics": metrics}
    return curves


def _state_of(optuna_state: str, attributes: Mapping[str, Any]) -> State:
    """State of a trial without outcome: one that was proposed and never handed out waits."""
    state = _OPTUNA_STATES[optuna_state]
    return State.WAITING if state is State.RUNNING and attributes.get("attempts") == 0 else state


def _trial_row(
    study: StudyInfo, head: Mapping[str, Any], attributes: Mapping[str, Any], curve: Mapping[str, Any]
) -> Row:
    started, ended = _unix_time(head["datetime_start"]), _unix_time(head["datetime_complete"])
    arrival = curve.get("arrival")
    seconds = attributes.get("seconds")
    if seconds is None and started is not None and arrival is not None:
        seconds = max(0.0, arrival - started)
    row = {
        "study": study.name,
        "trial": head["trial"],
        "state": State(attributes.get("outcome") or _state_of(head["state"], attributes)),
        "reason": attributes.get("reason"),
        "traceback": attributes.get("traceback"),
        "recipe": attributes.get("recipe") or attributes.get("prior"),  # "prior" before version 0.2
        "worker": attributes.get("worker"),
        "attempts": attributes.get("attempts"),
        "seconds": seconds,
        "epochs": curve.get("epochs", 0),
        "kept_at_epoch": curve.get("kept_at_epoch"),
        "started": started,
        "ended": ended,
    }
    for name, value in (attributes.get("config") or {}).items():
        row[_OLD_HYPERPARAMETERS.get(name, name)] = value
    metrics = _metrics_of(curve.get("metrics", "{}"))
    return row | {name: _finite(value) for name, value in metrics.items()}


def _metrics_of(stored: str) -> dict[str, float]:
    """Return the metrics of a stored report, without the epoch that older ones repeat among them."""
    named = ((_OLD_METRICS.get(name, name), value) for name, value in json.loads(stored).items())
    return {name: value for name, value in named if name in METRICS}


def _finite(value: float | None) -> float | None:
    """Replace NaN and infinity by None: JSON and rankings have no place for them."""
    return value if value is None or math.isfinite(value) else None


def _unix_time(stored: str | datetime | None) -> float | None:
    """Convert Optuna's naive UTC, which SQLite hands out as text."""
    if stored is None:
        return None
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment.replace(tzinfo=UTC).timestamp()
