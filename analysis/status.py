"""Reports a study's progress: trials by outcome, the best so far, the running ones."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.text import Text

from analysis.disk import measure_files
from analysis.leaderboard import rank_rows
from analysis.reading import StudyInfo, connect, load_trial_rows
from contract.messages import State
from contract.study_layout import StudyStatus

SILENT_SECONDS = 600.0
"""Seconds without a record after which a study that says it runs was probably killed."""


def load_status(study: StudyInfo, *, now: float | None = None) -> dict[str, Any]:
    """Collect the study's progress as plain values for JSON."""
    rows = load_trial_rows(study)
    newest = _newest_arrival(study)
    ranked = rank_rows(rows, metric=study.metric, maximize=study.maximize)
    best = ranked[0] if ranked and ranked[0].get(study.metric) is not None else None
    wanted = study.facts.get("flags", {}).get("trials")
    return {
        "study": study.name,
        "status": study.status,
        "trials": dict(Counter(str(row["state"]) for row in rows)),
        "trials_wanted": wanted,
        "epochs": sum(row["epochs"] for row in rows),
        "trial_seconds": sum(row["seconds"] or 0.0 for row in rows),
        "metric": study.metric,
        "best": {"trial": best["trial"], "value": best[study.metric], "epoch": best["kept_at_epoch"]}
        if best
        else None,
        "running": [
            {
                name: row.get(name)
                for name in ("trial", "backbone", "regime", "epochs", "max_epochs", study.metric)
            }
            for row in rows
            if row["state"] is State.RUNNING
        ],
        "bytes": measure_files(study.paths),
        "seconds_since_last_epoch": None
        if newest is None
        else (time.time() if now is None else now) - newest,
    }


def print_status(status: dict[str, Any], *, console: Console | None = None) -> None:
    """Print the values of a status as lines of text; "answer" is one that may have been added."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    num_ended = sum(num for state, num in status["trials"].items() if State(state).has_ended)
    of_wanted = f" of {status['trials_wanted']}" if status["trials_wanted"] else ""
    by_state = (
        ", ".join(f"{num} {state}" for state, num in sorted(status["trials"].items())) or "no trial yet"
    )
    title = Text(status["study"], style="bold")
    title.append(f" {status['status']}: {num_ended}{of_wanted} trials ended ({by_state})", style="not bold")
    console.print(title)
    hours = status["trial_seconds"] / 3600
    console.print(f"{status['epochs']} epochs recorded in {hours:.1f} trial hours")
    if best := status["best"]:
        console.print(
            f"best {status['metric']} {best['value']:.4f}: trial {best['trial']}, epoch {best['epoch']}"
        )
    if status.get("answer"):
        console.print(Text(status["answer"]))
    if any(status["bytes"].values()):
        sizes = ", ".join(f"{kind} {size / 1e6:,.1f} MB" for kind, size in status["bytes"].items() if size)
        console.print(f"on disk: {sizes} (python -m analysis clean {status['study']} frees weights)")
    for row in status["running"]:
        value = row[status["metric"]]
        shown = "" if value is None else f", {status['metric']} {value:.4f}"
        progress = f"epoch {row['epochs']} of {row['max_epochs']}"
        line = f"  trial {row['trial']}: {row['backbone']} {row['regime']}, {progress}{shown}"
        console.print(Text(line))
    silent = status["seconds_since_last_epoch"]
    if status["status"] == StudyStatus.RUNNING and silent is not None and silent > SILENT_SECONDS:
        console.print(
            f"nothing recorded for {silent / 60:.0f} min: if it was interrupted, run the same command again"
        )


def _newest_arrival(study: StudyInfo) -> float | None:
    from sqlalchemy import text

    with connect(study) as (connection, study_id):
        query = text("SELECT MAX(arrival) FROM epochs WHERE study_id = :id")
        newest: float | None = connection.execute(query, {"id": study_id}).scalar()
    return newest
