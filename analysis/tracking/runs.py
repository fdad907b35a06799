"""What a study looks like as MLflow runs: names, parameters, tags, metric points. Plain values, no MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from analysis.reading import TRIAL_COLUMNS, StudyInfo
from analysis.tracking.following import EpochRecord, TrialChange

Point = tuple[str, float, int, int]
"""Metric name, value, time [unix ms], step."""

STUDY_TAG = "unfreeze.study"
TRIAL_TAG = "unfreeze.trial"
EPOCHS_TAG = "unfreeze.epochs"
"""The newest epoch written, on a trial's run; the number of ended trials written, on a study's."""

MAX_TAG = 4000

STATUSES = {"complete": "FINISHED", "pruned": "FINISHED", "infeasible": "KILLED", "failed": "FAILED"}
"""Pruned is FINISHED: the scheduler's stop is a result, and MLflow marks KILLED with the same red cross as
FAILED, so most of a healthy search would look broken. `tags.state = 'complete'` filters full budgets."""
PARENT_STATUSES = {
    "new": "RUNNING",
    "running": "RUNNING",
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
}
"""How the study's own run stands in MLflow, by the status of the study."""


def trial_name(row: Mapping[str, Any]) -> str:
    """Short and sortable, as in "007 lite0 finetune d2"."""
    depth = row.get("unfreeze_depth")
    parts = [
        f"{row['trial']:03d}",
        row.get("backbone"),
        row.get("regime"),
        None if depth is None else f"d{depth}",
    ]
    return " ".join(str(part) for part in parts if part)


def trial_params(row: Mapping[str, Any]) -> dict[str, str]:
    """The whole configuration."""
    return {name: str(value) for name, value in row.items() if name not in TRIAL_COLUMNS}


def trial_tags(study: StudyInfo, row: Mapping[str, Any]) -> dict[str, str]:
    """What people filter by, and what finds the run again."""
    tags = {
        STUDY_TAG: study.key,
        TRIAL_TAG: row["trial"],
        "space": study.space,
        "data": study.data,
        "state": row["state"],
    }
    for name in ("backbone", "regime", "reason", "recipe", "worker", "traceback"):
        if row.get(name) is not None:
            tags[name] = row[name]
    return {name: str(value)[-MAX_TAG:] for name, value in tags.items()}


def trial_points(change: TrialChange, *, metric: str) -> list[Point]:
    """Metric histories of the new epochs (step = epoch), and what is known at the end."""
    points: list[Point] = []
    for record in change.epochs:
        points += _epoch_points(record, metric=metric)
    seconds = change.row.get("seconds")
    if change.is_ended and seconds is not None:
        points.append(("seconds", float(seconds), to_milliseconds(change.row["ended"]), 0))
    return points


def study_params(study: StudyInfo) -> dict[str, str]:
    """What was fixed for the whole study."""
    facts = study.facts
    names = ("image_size", "max_epochs", "weights", "seed", "direction", "git_revision", "hardware")
    params = {"space": study.space, "metric": study.metric} | {name: facts.get(name) for name in names}
    for name, value in (facts.get("data") or {}).items():
        params["data" if name == "source" else f"data_{name.removeprefix('num_')}"] = value
    for entry in facts.get("space_table") or []:
        params[f"space.{entry['name']}"] = entry["values"]
    return {name: str(value)[:MAX_TAG] for name, value in params.items() if value is not None}


def study_start(study: StudyInfo) -> int | None:
    """Unix time [ms]; None where study.json has no readable date."""
    try:
        return to_milliseconds(datetime.fromisoformat(study.created).timestamp())
    except ValueError:
        return None


def study_points(study: StudyInfo, ended: Iterable[tuple[dict[str, Any], float | None]]) -> list[Point]:
    """One step an ended trial, in the order of their ends: the best so far, and trials by outcome."""
    points: list[Point] = []
    counts: dict[str, int] = {}
    best: float | None = None
    for step, (row, value) in enumerate(ended, start=1):
        moment = to_milliseconds(row["ended"])
        counts[row["state"]] = counts.get(row["state"], 0) + 1
        points.append((f"trials_{row['state']}", float(counts[row["state"]]), moment, step))
        if value is None or row["state"] not in ("complete", "pruned"):
            continue
        if best is None or (value > best if study.maximize else value < best):
            best = value
            points.append((f"best_{study.metric}", best, moment, step))
    return points


def to_milliseconds(seconds: float | None) -> int:
    """Recorded times only, never now: writing the same record again must give the same row."""
    return int((seconds or 0.0) * 1000)


def _epoch_points(record: EpochRecord, *, metric: str) -> list[Point]:
    moment = to_milliseconds(record.arrival)
    points = []
    for name, value in record.metrics.items():
        if name == "epoch" or value is None:
            continue
        # MLflow stores infinity as 1.8e308, which ruins every chart's scale.
        points.append((name, value if math.isfinite(value) else math.nan, moment, record.epoch))
    if record.is_best:
        points.append((f"best_{metric}", record.metrics[metric], moment, record.epoch))
    return points
