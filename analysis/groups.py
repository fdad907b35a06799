"""Groups trials by backbone, regime or another hyperparameter, averaged over the seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.leaderboard import format_value, header, hyperparameter_names, load_leaderboard
from analysis.reading import Row, StudyInfo
from contract.messages import State
from contract.metrics import Detail, shown_metrics

CONFIG = "config"
"""Value of `by` that groups trials by all their hyperparameters together."""

FAMILY_FACTS = ("space", "space_table", "image_size", "max_epochs", "weights", "metric")
"""Names in study.json: studies that agree in them and in their images count as seeds of one study."""


def group_leaderboard(studies: Sequence[StudyInfo], *, by: str) -> list[Row]:
    """One row a group, best first: the best trial of each seed, averaged over the seeds.

    Studies that differ in nothing but the seed are seeds of one; all others stay apart. `<metric>_sd` is the
    standard deviation over the seeds, None with one seed.

    Raises:
        ValueError: `by` is no hyperparameter of these studies.
    """
    rows = load_leaderboard(studies)
    names = hyperparameter_names(rows)
    if rows and by != CONFIG and by not in names:
        raise ValueError(
            f"--by {by}: choose backbone, regime, {CONFIG}, or one of {', '.join(sorted(names))}"
        )
    families = {study.name: _family(study) for study in studies}
    members: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        value = {name: row[name] for name in names} if by == CONFIG else row.get(by)
        key = families[row["study"]], json.dumps(value, sort_keys=True, default=str)
        members.setdefault(key, []).append(row)
    metric = studies[0].metric
    groups = [_summarise(group, by=by, metric=metric) for group in members.values()]
    sign = studies[0].direction.sign
    return sorted(groups, key=lambda row: (row[metric] is None, -sign * (row[metric] or 0.0)))


def print_groups(
    studies: Sequence[StudyInfo], *, by: str, top: int | None = None, console: Console | None = None
) -> None:
    """Print the groups in as many columns as there is room; over seeds, mean ± standard deviation."""
    console = console or Console(markup=False, emoji=False)
    rows = group_leaderboard(studies, by=by)[:top]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    left, left_out, columns = console.width, list[str](), list[str]()
    for name in group_columns(rows):
        cells = [_show(row, name) for row in rows]
        left -= max(len(header(name)), *(len(cell) for cell in cells)) + 2
        (columns if left >= 0 else left_out).append(name)
    for name in columns:
        is_text = any(isinstance(row[name], str) for row in rows)
        table.add_column(header(name), justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_show(row, name)) for name in columns))
    console.print(table)
    if left_out:
        console.print(Text(f"no room for {', '.join(left_out)} (--json has all)", style="dim"))


def _show(row: Row, name: str) -> str:
    spread = row.get(f"{name}_sd")
    return format_value(name, row[name]) + (f" ± {format_value(name, spread)}" if spread is not None else "")


def group_columns(rows: Sequence[Row]) -> list[str]:
    """Choose the columns: a spread shares its metric's cell, and columns with one value are left out."""
    several_seeds = any(row["num_seeds"] > 1 for row in rows)
    several_studies = len({row["study"] for row in rows}) > 1
    columns = [name for name in rows[0] if not name.endswith("_sd")] if rows else []
    hidden = set() if several_seeds else {"num_seeds"}
    hidden |= {"trial"} if several_seeds else set()
    hidden |= set() if several_studies else {"study"}
    return [name for name in columns if name not in hidden]


def _family(study: StudyInfo) -> str:
    facts = [study.facts.get(name) for name in FAMILY_FACTS]
    # The seed decides the split, too, so the images count and not how they were split. A study that does not
    # say what its images were is like no other.
    facts.append((study.facts.get("data") or {}).get("contents") or study.name)
    return json.dumps(facts, sort_keys=True)


def _summarise(group: Sequence[Row], *, by: str, metric: str) -> Row:
    """Average the best trial of each seed, which is the first of its study among the ranked ones."""
    bests: dict[str, Row] = {}
    for row in group:
        if State(row["state"]).is_ranked and row.get(metric) is not None:
            bests.setdefault(row["study"], row)
    chosen = list(bests.values())
    first: Mapping[str, Any] = chosen[0] if chosen else group[0]
    summary: Row = {
        "study": ", ".join(dict.fromkeys(row["study"] for row in group)),
        by: f"trial {first['trial']}" if by == CONFIG else first.get(by),
        "num_trials": len(group),
        "num_seeds": len(chosen),
        "trial": first["trial"] if chosen else None,
    }
    for name in dict.fromkeys((metric, *shown_metrics(Detail.SUMMARY), "seconds")):
        values = [row[name] for row in chosen if row.get(name) is not None]
        summary[name] = statistics.fmean(values) if values else None
        summary[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    return summary
