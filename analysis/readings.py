"""Readings of the test split: which models were tried on it, when, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect, text

from analysis.reading import StudyInfo, connect


@dataclass(frozen=True, kw_only=True)
class TestReading:
    """A row of the table `readings`; `record` holds all that was found out, as plain values."""

    __test__ = False

    reading: int
    """1 for the first model that was read; a later one has had a chance to be chosen by the earlier."""

    created: float
    """Unix time."""

    digest: str
    rule: str
    images: int
    record: Mapping[str, Any]


def read_readings(connection: Connection, study_id: int) -> list[TestReading]:
    """Load all readings, the first one first; a database of an earlier version has none."""
    if not inspect(connection).has_table("readings"):
        return []
    columns = ("reading", "created", "digest", "rule", "images")
    query = text(f"SELECT {', '.join(columns)}, record FROM readings WHERE study_id = :id ORDER BY reading")
    return [
        TestReading(record=json.loads(row["record"]), **{name: row[name] for name in columns})
        for row in connection.execute(query, {"id": study_id}).mappings()
    ]


def load_readings(study: StudyInfo) -> list[TestReading]:
    """Load all readings of a study."""
    with connect(study) as (connection, study_id):
        return read_readings(connection, study_id)
