"""The table `probes`: what frozen heads measured before anything was unfrozen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cluster.study.database import write_rows

PROBES = sa.Table(
    "probes",
    sa.MetaData(),
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("probe", sa.Integer, primary_key=True),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text),
    sa.Column("seconds", sa.Float(53), nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("arrival", sa.Float(53), nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """A row of `probes`: one that ended; `arrival` is unix time."""

    probe: int
    config: Mapping[str, Any]
    metrics: Mapping[str, float] | None
    """Values of the last epoch; None after an error."""

    seconds: float
    error: str | None
    worker: str | None
    arrival: float


def write_probes(connection: sa.Connection, study_id: int, records: Iterable[ProbeRecord]) -> None:
    """Write rows in place of those with the same number: a commit whose answer was lost is repeated."""
    rows = [
        {
            "study_id": study_id,
            "probe": record.probe,
            "config": json.dumps(dict(record.config)),
            "metrics": None if record.metrics is None else json.dumps(dict(record.metrics)),
            "seconds": record.seconds,
            "error": record.error,
            "worker": record.worker,
            "arrival": record.arrival,
        }
        for record in records
    ]
    write_rows(connection, PROBES, rows, key=("study_id", "probe"))


def load_probes(connection: sa.Connection, study_id: int) -> list[ProbeRecord]:
    """All probes of the study that ended, by number."""
    query = sa.select(PROBES).where(PROBES.c.study_id == study_id).order_by(PROBES.c.probe)
    return [
        ProbeRecord(
            probe=row["probe"],
            config=json.loads(row["config"]),
            metrics=None if row["metrics"] is None else json.loads(row["metrics"]),
            seconds=row["seconds"],
            error=row["error"],
            worker=row["worker"],
            arrival=row["arrival"],
        )
        for row in connection.execute(query).mappings()
    ]
