"""Opens the database that holds a study: Optuna's storage, with SQLite set for many small safe writes."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage


def open_storage(url: str) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # With SQLite a write waits this long for another process's write (MLflow sync, a dashboard).
    arguments = {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}
    storage = RDBStorage(url, engine_kwargs=arguments | {"pool_pre_ping": True})
    if storage.engine.dialect.name == "sqlite":
        sa.event.listen(storage.engine, "connect", _set_pragmas)
        storage.engine.dispose()  # the connections made so far lack the pragmas
    return storage


def _set_pragmas(connection: Any, _: Any) -> None:
    """WAL and NORMAL survive a killed process whole; FULL would cost an fsync a transaction."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
