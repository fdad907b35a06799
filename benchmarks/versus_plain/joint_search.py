"""Both sides searching the same space freely: when does ours reach what the plain search ends with?"""

from __future__ import annotations

import statistics
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.inputs import published_recipes
from benchmarks.versus_plain.plain_runs import PlainRuns
from benchmarks.versus_plain.sides import Sides

MOST_TRIALS = 8
"""Times as many trials as the plain search has, after which ours gives up."""
TARGET = 10.0


def measure_joint(
    sides: Sides, plain_runs: PlainRuns, space: dict[str, Any], *, num_trials: int, repeat: int, label: str
) -> dict[str, Any]:
    """Seconds until ours reports the best accuracy that any epoch of the plain search reported."""
    plain = plain_runs.free(space, num_trials=num_trials, repeat=repeat, label=label)
    best = max(accuracy for _, accuracy in plain["reports"])
    ours = sides.ours_free(space, num_trials=MOST_TRIALS * num_trials, seed=repeat, until=best, label=label)
    reached = ours["reached_seconds"]
    first = next(moment for moment, accuracy in plain["reports"] if accuracy >= best)
    return {
        "plain_best": best,
        "plain_trials": num_trials,
        "plain_seconds": plain["seconds"],
        "plain_reached_seconds": first,
        "ours_reached_seconds": reached,
        "ours_command_seconds": ours["command_seconds"],
        "ours_trials": len(ours["trials"]),
        "ours_recipes": len(published_recipes(space)),
        "ratio": round(plain["seconds"] / reached, 2) if reached else None,
        "ratio_to_first": round(first / reached, 2) if reached else None,
    }


def make_joint_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("joint search, seed")
    heads = (
        ("plain's best", "plain_best"),
        ("plain: whole search (s)", "plain_seconds"),
        ("plain: reached it (s)", "plain_reached_seconds"),
        ("ours: reached it (s)", "ours_reached_seconds"),
        ("ours: trials begun", "ours_trials"),
        (f"ratio (target {TARGET:g})", "ratio"),
        ("to plain's first", "ratio_to_first"),
    )
    for title, _ in heads:
        table.add_column(title, justify="right")
    for seed, row in enumerate(rows):
        table.add_row(str(seed), *("never" if row[name] is None else f"{row[name]:g}" for _, name in heads))
    ratios = [row["ratio"] or 0.0 for row in rows]
    if len(rows) > 1:
        table.add_row("median", *[""] * 5, f"{statistics.median(ratios):g}", "")
    return table
