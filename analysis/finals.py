"""Final trainings of a study: its trials repeated with other draws, on folds, or on all images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect, text

from analysis.reading import StudyInfo, connect
from contract.finals import FinalKind, FinalTraining
from contract.messages import State


@dataclass(frozen=True, kw_only=True)
class Final:
    """A row of the table `finals`."""

    final: int
    training: FinalTraining
    config: Mapping[str, Any]
    state: State
    epochs: int
    kept_at_epoch: int | None
    metrics: Mapping[str, float]
    """Values at the kept epoch, empty before the first; of a refit none is of validation images."""

    seconds: float
    error: str | None
    worker: str | None
    arrival: float | None
    """Unix time of the newest report."""

    @property
    def is_selectable(self) -> bool:
        """Its weights may be chosen by its predictions of the study's validation images.

        A fold predicts other images, and a refit has seen those that it predicts.
        """
        return self.state is State.COMPLETE and self.training.kind in (FinalKind.SEED, FinalKind.SOUP)


_COLUMNS = (
    "final, kind, source, draw, fold, num_folds, fixed_epochs, val_losses, config, state, epochs, "
    "kept_at_epoch, metrics, seconds, error, worker, arrival"
)


def read_finals(connection: Connection, study_id: int) -> list[Final]:
    """Load all final trainings, by number; a database of an earlier version has none."""
    if not inspect(connection).has_table("finals"):
        return []
    query = text(f"SELECT {_COLUMNS} FROM finals WHERE study_id = :id ORDER BY final")
    return [_final_of(row) for row in connection.execute(query, {"id": study_id}).mappings()]


def load_finals(study: StudyInfo) -> list[Final]:
    """Load all final trainings of a study."""
    with connect(study) as (connection, study_id):
        return read_finals(connection, study_id)


def _final_of(row: Mapping[Any, Any]) -> Final:
    planned = {name: row[name] for name in ("kind", "source", "draw", "fold", "num_folds", "fixed_epochs")}
    training = FinalTraining.from_values(planned | {"val_losses": json.loads(row["val_losses"] or "[]")})
    reached = ("final", "epochs", "kept_at_epoch", "seconds", "error", "worker", "arrival")
    return Final(
        training=training,
        config=json.loads(row["config"]),
        state=State(row["state"]),
        metrics=json.loads(row["metrics"] or "{}"),
        **{name: row[name] for name in reached},
    )
