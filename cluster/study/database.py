"""Opens the database of a study: Optuna's storage, with SQLite set for many small transactions."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.dialects import postgresql, sqlite

from contract.sqlite_files import network_file_system, remove_write_ahead_log, sqlite_path

logger = logging.getLogger("unfreeze")
LOCKED_SECONDS = 5
"""How long a write waits for that of another process (a dashboard, a copy) before the user is told."""


def open_storage(url: str) -> RDBStorage:
    """Connect, and create Optuna's tables where they are missing.

    Raises:
        ValueError: no such kind of database, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    set_pragmas = _set_pragmas
    if (path := sqlite_path(url)) and (kind := network_file_system(path)):
        _recommend_server(path, kind)
        set_pragmas = _set_network_pragmas
        try:
            remove_write_ahead_log(path, timeout_seconds=LOCKED_SECONDS)
        except sqlite3.OperationalError as error:  # the caller waits and retries on SQLAlchemy's error
            raise sa.exc.OperationalError("PRAGMA journal_mode=DELETE", None, error) from error
    arguments = {"connect_args": {"timeout": LOCKED_SECONDS}} if url.startswith("sqlite") else {}
    try:
        # Without pool_pre_ping, a round trip of its own: whoever finds a connection dead tries again anyway.
        storage = RDBStorage(url, engine_kwargs=arguments)
    except ImportError:
        scheme = url.partition(":")[0]
        raise ValueError(
            f"--storage {scheme}: its driver is not installed (for postgresql: pip install 'psycopg[binary]')"
        ) from None
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
        raise ValueError(
            f"--storage must be a URL like sqlite:///study.db or postgresql://user@host/db: {error}"
        ) from None
    if storage.engine.dialect.name == "sqlite":
        sa.event.listen(storage.engine, "connect", set_pragmas)
        storage.engine.dispose()  # connections made before lack the pragmas
    return storage


def present_columns(database: sa.Engine | sa.Connection, table: sa.Table) -> list[sa.Column[Any]]:
    """List the columns that a database has of the table: one of an older version lacks the newer ones."""
    names = {column["name"] for column in sa.inspect(database).get_columns(table.name)}
    return [column for column in table.columns if column.name in names]


def add_missing_columns(engine: sa.Engine, table: sa.Table) -> None:
    """Add the columns that the table lacks because an older version made it; they must be nullable."""
    present = {column.name for column in present_columns(engine, table)}
    # SQLite has no such words: of two processes at once, one fails there, tries again and finds the column.
    unless_there = "IF NOT EXISTS " if engine.dialect.name == "postgresql" else ""
    with engine.begin() as connection:
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(dialect=engine.dialect)
                statement = f"ALTER TABLE {table.name} ADD COLUMN {unless_there}{column.name} {kind}"
                connection.execute(sa.text(statement))


@cache  # a process opens a study several times, but says this once
def _recommend_server(path: Path, kind: str) -> None:
    logger.warning(
        "%s lies on a network file system (%s), where SQLite is slower and rests on that system's locks: "
        "--storage postgresql://USER@HOST/DATABASE is safer",
        path,
        kind,
    )


def _set_network_pragmas(connection: Any, _: Any) -> None:
    """A rollback journal with FULL needs no memory that processes share, unlike WAL."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=DELETE")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _set_pragmas(connection: Any, _: Any) -> None:
    """WAL with NORMAL survives a killed process; FULL would cost an fsync for each transaction."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def param_row(trial_id: int, trial: FrozenTrial, name: str) -> dict[str, Any]:
    """The row of a parameter in Optuna's table `trial_params`."""
    distribution = trial.distributions[name]
    value = distribution.to_internal_repr(trial.params[name])
    row = {"trial_id": trial_id, "param_name": name, "param_value": value}
    return row | {"distribution_json": distribution_to_json(distribution)}


def write_rows(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> None:
    """Insert rows with the same columns, in place of those with the same key.

    SQLite and PostgreSQL take all of them in one statement, which is one round trip.

    Args:
        key: columns with a unique index.
    """
    if not rows:
        return
    statement = _make_upsert(connection.dialect.name, table, tuple(rows[0]), key)
    if statement is None:
        for row in rows:
            connection.execute(sa.delete(table).where(*(table.c[name] == row[name] for name in key)))
        statement = sa.insert(table)
    connection.execute(statement, rows if len(rows) > 1 else rows[0])


@cache  # making it takes as long as running it
def _make_upsert(
    dialect: str, table: sa.Table, columns: tuple[str, ...], key: tuple[str, ...]
) -> sa.Insert | None:
    """Make the statement as the database spells it; None for another one than these two."""
    statement: postgresql.Insert | sqlite.Insert
    if dialect == "postgresql":
        statement = postgresql.insert(table)
    elif dialect == "sqlite":
        statement = sqlite.insert(table)
    else:
        return None
    others = {name: statement.excluded[name] for name in columns if name not in key}
    # `inline`, because SQLAlchemy would ask for the new key of a single row.
    return statement.inline().on_conflict_do_update(index_elements=key, set_=others)


def write_attrs(connection: sa.Connection, table: sa.Table, trial_id: int, attrs: Mapping[str, Any]) -> None:
    """Write attributes of a trial as JSON, in place of those with the same key."""
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()
    ]
    write_rows(connection, table, rows, key=("trial_id", "key"))


def utc_now() -> datetime:
    """The time as Optuna's tables keep it: UTC without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)
