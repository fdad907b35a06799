"""Opens the database that holds a study: Optuna's storage, with SQLite set for many small safe writes."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage

LOCKED_SECONDS = 5
"""So long a write waits for another process's (a dashboard, a copy) in silence; then the user is told."""


def open_storage(url: str) -> RDBStorage:
    """Connect, and create Optuna's tables where they are missing.

    Raises:
        ValueError: no such kind of database, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments = {"connect_args": {"timeout": LOCKED_SECONDS}} if url.startswith("sqlite") else {}
    try:
        storage = RDBStorage(url, engine_kwargs=arguments | {"pool_pre_ping": True})
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
        sa.event.listen(storage.engine, "connect", _set_pragmas)
        storage.engine.dispose()  # the connections made so far lack the pragmas
    return storage


def _set_pragmas(connection: Any, _: Any) -> None:
    """WAL and NORMAL survive a killed process whole; FULL would cost an fsync a transaction."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
