"""Rows of Optuna's tables that hold a trial's parameters and attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial


def param_row(trial_id: int, trial: FrozenTrial, name: str) -> dict[str, Any]:
    distribution = trial.distributions[name]
    value = distribution.to_internal_repr(trial.params[name])
    row = {"trial_id": trial_id, "param_name": name, "param_value": value}
    return row | {"distribution_json": distribution_to_json(distribution)}


def write_attrs(
    connection: sa.Connection,
    table: sa.Table,
    trial_id: int,
    attrs: Mapping[str, Any],
    *,
    is_new: bool = False,
) -> None:
    if not attrs:
        return
    if not is_new:
        same = (table.c.trial_id == trial_id, table.c.key.in_(list(attrs)))
        connection.execute(sa.delete(table).where(*same))
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()
    ]
    connection.execute(sa.insert(table), rows)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)  # Optuna keeps naive UTC
