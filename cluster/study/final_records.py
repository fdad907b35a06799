"""The tables `finals` and `readings`: trainings after the search, and what models did on the test split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from cluster.study.database import write_rows
from contract.finals import FinalKind, FinalTraining
from contract.messages import State

_METADATA = sa.MetaData()
FINALS = sa.Table(
    "finals",
    _METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("final", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("source", sa.Integer, nullable=False),
    sa.Column("draw", sa.Integer, nullable=False),
    sa.Column("fold", sa.Integer),
    sa.Column("num_folds", sa.Integer),
    sa.Column("fixed_epochs", sa.Integer),
    sa.Column("val_losses", sa.Text),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("epochs", sa.Integer, nullable=False),
    sa.Column("kept_at_epoch", sa.Integer),
    sa.Column("metrics", sa.Text),
    sa.Column("seconds", sa.Float(53), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("arrival", sa.Float(53)),
)
READINGS = sa.Table(
    "readings",
    _METADATA,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("reading", sa.Integer, primary_key=True),
    sa.Column("created", sa.Float(53), nullable=False),
    sa.Column("digest", sa.String(128), nullable=False),
    sa.Column("rule", sa.String(64), nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class FinalRecord:
    """A row of `finals`: a training as it was planned, and how far it has come."""

    final: int
    training: FinalTraining
    config: Mapping[str, Any] = field(hash=False)
    state: State = State.WAITING
    epochs: int = 0
    kept_at_epoch: int | None = None
    metrics: Mapping[str, float] | None = None
    """Values at the kept epoch; of a refit without those of validation images, which it has seen."""

    seconds: float = 0.0
    attempt: int = 0
    crashes: int = 0
    """Lost workers since its last new epoch."""

    error: str | None = None
    worker: str | None = None
    arrival: float | None = None
    """Unix time of the newest report."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A row of `readings`: what one model did on the test split."""

    reading: int
    """Counts the readings of the study, from 1."""

    created: float
    """Unix time."""

    digest: str
    """Digest of the model that was read."""

    rule: str
    """Rule by which the model was chosen."""

    images: int
    """Number of test images."""

    record: Mapping[str, Any] = field(hash=False)
    """All else that was found out, as plain values."""


def write_finals(connection: sa.Connection, study_id: int, records: Iterable[FinalRecord]) -> None:
    """Write rows in place of those with the same number."""
    rows = [_row_of(study_id, record) for record in records]
    write_rows(connection, FINALS, rows, key=("study_id", "final"))


def load_finals(connection: sa.Connection, study_id: int) -> list[FinalRecord]:
    """All final trainings of the study, by number."""
    query = sa.select(FINALS).where(FINALS.c.study_id == study_id).order_by(FINALS.c.final)
    return [_record_of(row) for row in connection.execute(query).mappings()]


def add_reading(
    connection: sa.Connection,
    study_id: int,
    *,
    created: float,
    digest: str,
    rule: str,
    images: int,
    record: Mapping[str, Any],
) -> Reading:
    """Add a reading under the next number; of a model that was read before, return what is recorded.

    A row is never changed: the reading of another model is another row.
    """
    known = load_readings(connection, study_id)
    if (same := next((one for one in known if one.digest == digest), None)) is not None:
        return same
    number = 1 + max((one.reading for one in known), default=0)
    text = json.dumps(dict(record))
    row = {"study_id": study_id, "reading": number, "created": created, "digest": digest}
    row |= {"rule": rule, "images": images, "record": text}
    connection.execute(sa.insert(READINGS).values(row))
    # As it will be read back: tuples have become lists.
    return Reading(
        reading=number, created=created, digest=digest, rule=rule, images=images, record=json.loads(text)
    )


def load_readings(connection: sa.Connection, study_id: int) -> list[Reading]:
    """All readings of the study, the first one first."""
    query = sa.select(READINGS).where(READINGS.c.study_id == study_id).order_by(READINGS.c.reading)
    return [
        Reading(
            reading=row["reading"],
            created=row["created"],
            digest=row["digest"],
            rule=row["rule"],
            images=row["images"],
            record=json.loads(row["record"]),
        )
        for row in connection.execute(query).mappings()
    ]


def _row_of(study_id: int, record: FinalRecord) -> dict[str, Any]:
    training = record.training
    losses = json.dumps(training.val_losses) if training.val_losses else None
    planned = {name: getattr(training, name) for name in ("source", "draw", "fold", "num_folds")}
    planned |= {"kind": training.kind.value, "fixed_epochs": training.fixed_epochs, "val_losses": losses}
    names = ("epochs", "kept_at_epoch", "seconds", "attempt", "crashes", "error", "worker", "arrival")
    reached = {name: getattr(record, name) for name in names} | {"state": record.state.value}
    reached["metrics"] = None if record.metrics is None else json.dumps(dict(record.metrics))
    row = {"study_id": study_id, "final": record.final, "config": json.dumps(dict(record.config))}
    return row | planned | reached


def _record_of(row: sa.RowMapping) -> FinalRecord:
    names = ("epochs", "kept_at_epoch", "seconds", "attempt", "crashes", "error", "worker", "arrival")
    return FinalRecord(
        final=row["final"],
        training=FinalTraining(
            kind=FinalKind(row["kind"]),
            source=row["source"],
            draw=row["draw"],
            fold=row["fold"],
            num_folds=row["num_folds"],
            fixed_epochs=row["fixed_epochs"],
            val_losses=tuple(json.loads(row["val_losses"] or "[]")),
        ),
        config=json.loads(row["config"]),
        state=State(row["state"]),
        metrics=None if row["metrics"] is None else json.loads(row["metrics"]),
        **{name: row[name] for name in names},
    )
