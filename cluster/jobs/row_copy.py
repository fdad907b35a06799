"""Copies one study's rows from one database into another, say from PostgreSQL into SQLite."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from optuna.storages._rdb import models

from cluster.study.database import open_storage
from cluster.study.records import EPOCHS

_STUDIES, _TRIALS = models.StudyModel.__table__, models.TrialModel.__table__


def copy_study_rows(source: str, target: str, *, study: str) -> None:
    """Copy Optuna's rows and our epochs as they are at one moment; `target` is a new database.

    Raises:
        ValueError: a database cannot be opened, or `source` has no such study.
    """
    path = sa.make_url(source).database
    if source.startswith("sqlite") and not Path(path or "").is_file():  # opening would create an empty one
        raise ValueError(f"the study database {path} is not there")
    there, here = open_storage(source), open_storage(target)
    EPOCHS.create(here.engine, checkfirst=True)
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
            for table in (*models.BaseModel.metadata.sorted_tables, EPOCHS):
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
        return  # versions of the tables themselves
    rows = [dict(row) for row in reading.execute(sa.select(table).where(wanted)).mappings()]
    if rows:
        writing.execute(sa.insert(table), rows)
