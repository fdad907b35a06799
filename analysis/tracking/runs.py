"""Translates a study to MLflow's names, parameters, tags and metrics, as plain values and without MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

from analysis.reading import HYPERPARAMETERS, Row, StudyInfo
from analysis.tracking.following import EpochRecord, TrialChange
from contract.files import printable
from contract.messages import State
from contract.metrics import METRICS, is_better
from contract.study_layout import StudyStatus

Point = tuple[str, float, int, int]
"""Metric name, value, time [unix ms], step."""

STUDY_TAG = "unfreeze.study"
TRIAL_TAG = "unfreeze.trial"
EPOCHS_TAG = "unfreeze.epochs"
"""Tag with the newest epoch written (a trial's run) or the number of ended trials (a study's run)."""

MAX_TAG = 4000
"""Most characters of a tag or parameter: MLflow refuses longer ones."""

STATUSES = {
    State.COMPLETE: "FINISHED",
    State.PRUNED: "FINISHED",
    State.INFEASIBLE: "KILLED",
    State.FAILED: "FAILED",
}
"""MLflow's status of a trial's run.

Pruned is FINISHED: the scheduler's stop is a result, and MLflow marks KILLED with FAILED's red cross,
so most of a healthy search would look broken. The filter `tags.state = 'complete'` finds full budgets.
"""

PARENT_STATUSES = {
    StudyStatus.NEW: "RUNNING",
    StudyStatus.RUNNING: "RUNNING",
    StudyStatus.FINISHED: "FINISHED",
    StudyStatus.STOPPED: "KILLED",
    StudyStatus.FAILED: "FAILED",
}
"""MLflow's status of the study's own run."""


def trial_name(row: Row) -> str:
    """Make a short, sortable name of a trial's run, such as "007 lite0 finetune d2"."""
    depth = row.get("unfreeze_depth")
    parts = [
        f"{row['trial']:03d}",
        row.get("backbone"),
        row.get("regime"),
        None if depth is None else f"d{depth}",
    ]
    return " ".join(str(part) for part in parts if part)


def trial_params(row: Row) -> dict[str, str]:
    """Return all hyperparameters of a trial as text."""
    return {name: str(row[name]) for name in HYPERPARAMETERS if name in row}


def trial_tags(study: StudyInfo, row: Row) -> dict[str, str]:
    """Make the tags by which people filter trials' runs, and by which we find them again."""
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
    return {name: printable(value)[-MAX_TAG:] for name, value in tags.items()}


def trial_points(change: TrialChange, *, metric: str) -> list[Point]:
    """Make the metrics of the new epochs (step = epoch), and the trial's seconds once it has ended."""
    points: list[Point] = []
    for record in change.epochs:
        points += _epoch_points(record, metric=metric)
    seconds = change.row.get("seconds")
    if change.is_ended and seconds is not None:
        points.append(("seconds", float(seconds), to_milliseconds(change.row["ended"]), 0))
    return points


def study_params(study: StudyInfo) -> dict[str, str]:
    """Make the study run's parameters: the settings common to all trials, and the search space."""
    facts = study.facts
    names = ("image_size", "max_epochs", "weights", "seed", "direction", "git_revision", "hardware")
    params = {"space": study.space, "metric": study.metric} | {name: facts.get(name) for name in names}
    data = dict(facts.get("data") or {})
    data["notes"] = "; ".join(str(note["text"]) for note in data.get("notes") or ()) or None
    for name, value in data.items():
        params["data" if name == "source" else f"data_{name.removeprefix('num_')}"] = value
    for entry in facts.get("space_table") or []:
        params[f"space.{entry['name']}"] = entry["values"]
    return {name: printable(value)[:MAX_TAG] for name, value in params.items() if value is not None}


def study_start(study: StudyInfo) -> int | None:
    """Return when the study was made [unix ms]; None if study.json has no readable date."""
    try:
        return to_milliseconds(datetime.fromisoformat(study.created).timestamp())
    except ValueError:
        return None


def study_points(study: StudyInfo, ended: Iterable[tuple[Row, float | None]]) -> list[Point]:
    """Make best value so far and trials by outcome, one step for each trial in the order of their ends."""
    points: list[Point] = []
    counts: dict[str, int] = {}
    best: float | None = None
    for step, (row, value) in enumerate(ended, start=1):
        moment = to_milliseconds(row["ended"])
        counts[row["state"]] = counts.get(row["state"], 0) + 1
        points.append((f"trials_{row['state']}", float(counts[row["state"]]), moment, step))
        if value is None or not State(row["state"]).has_value:
            continue
        if is_better(value, best, maximize=study.maximize):
            best = value
            points.append((f"best_{study.metric}", best, moment, step))
    return points


def to_milliseconds(seconds: float | None) -> int:
    """Convert to ms; 0 without a time and never the present, so that a rewrite gives the same rows."""
    return int((seconds or 0.0) * 1000)


def _epoch_points(record: EpochRecord, *, metric: str) -> list[Point]:
    moment = to_milliseconds(record.arrival)
    points = []
    for name, value in record.metrics.items():
        if name not in METRICS or value is None:
            continue
        # MLflow stores infinity as 1.8e308, which ruins every chart's scale.
        points.append((name, value if math.isfinite(value) else math.nan, moment, record.epoch))
    if record.is_kept:
        points.append((f"best_{metric}", record.metrics[metric], moment, record.epoch))
    return points
