"""What each part of our engine contributes: the same trials again, each time without one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.figures import spread, text_of
from benchmarks.versus_plain.inputs import Trial
from benchmarks.versus_plain.shared_search import LEFT_OUT
from benchmarks.versus_plain.sides import Sides

SLOW = ("activation cache", "worker reuse")
"""Left out, every trial costs seconds: a part of the list is run, and scaled."""


def ablate(
    sides: Sides, trials: Sequence[Trial], whole: Sequence[dict[str, Any]], *, num_slow: int, label: str
) -> list[dict[str, Any]]:
    """A row a left-out part, as often repeated as there are runs of the whole engine."""
    rows = [_row("everything", [run["seconds"] for run in whole], len(trials), len(trials))]
    for part in LEFT_OUT:
        measured = min(num_slow, len(trials)) if part in SLOW else len(trials)
        runs = [sides.ours(trials[:measured], label=label, without=part) for _ in whole]
        seconds = [scaled_seconds(run, len(trials) / measured) for run in runs]
        rows.append(_row(f"without {part}", seconds, measured, len(trials)))
    for row in rows:
        row["times"] = round(row["seconds"]["median"] / rows[0]["seconds"]["median"], 2)
    return rows


def scaled_seconds(run: dict[str, Any], scale: float) -> float:
    """What comes before the first report does not grow with the trials."""
    first: float = run["first_report_seconds"]
    return first + (run["seconds"] - first) * scale


def _row(name: str, seconds: Sequence[float], measured: int, trials: int) -> dict[str, Any]:
    return {"engine": name, "seconds": spread(seconds), "measured_trials": measured, "trials": trials}


def make_ablation_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"our engine, {rows[0]['trials']} trials")
    for head in ("seconds", "times everything's", "measured on"):
        table.add_column(head, justify="right")
    for row in rows:
        scaled = ", scaled after the first report" if row["measured_trials"] < row["trials"] else ""
        measured = f"{row['measured_trials']} trials{scaled}"
        table.add_row(row["engine"], text_of(row["seconds"], 1), f"{row['times']:.2f}", measured)
    return table
