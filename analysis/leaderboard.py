"""The leaderboard: every trial of one or more studies, best first, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.probes import describe_probes
from analysis.reading import (
    HYPERPARAMETERS,
    TRIAL_COLUMNS,
    Row,
    StudyInfo,
    load_study,
    load_trial_rows,
)
from contract.files import printable
from contract.messages import State
from contract.metrics import METRICS, Direction, Unit, tie_break

MOST_ROWS = 100
"""Most rows of a printed table: rich takes a minute for 10,000, and nobody reads them."""

ONLY_WITH = {
    "frozen_epochs": ("regime", "two_phase"),
    "second_phase_learning_rate_factor": ("regime", "two_phase"),
    "momentum": ("optimizer", "sgd rmsprop"),
}
"""Hyperparameters without an effect unless another has one of these values."""

HEADERS = {
    "unfreeze_depth": "depth",
    "learning_rate": "lr",
    "batch_size": "batch",
    "optimizer": "optim",
    "weight_decay": "decay",
    "head_width": "head",
    "label_smoothing": "smooth",
    "mixup_alpha": "mixup",
    "backbone_learning_rate_factor": "bb lr",
    "head_batch_norm": "head bn",
    "gradient_clip": "clip",
    "warmup_epochs": "warm-up",
    "max_epochs": "budget",
}
"""Short headings of hyperparameters; those of metrics stand in METRICS."""

FIRST = (
    "backbone",
    "regime",
    "unfreeze_depth",
    "learning_rate",
    "batch_size",
    "policy",
    "dropout",
    "optimizer",
)
"""Hyperparameters shown first where the width does not hold all that vary."""


def rank_rows(rows: Iterable[Row], *, metric: str, maximize: bool) -> list[Row]:
    """Sort by the value at each trial's kept epoch, best first; trials without one come last, by number.

    Of equals the one with the lowest validation loss comes first, then the cheapest, as in the search.
    """
    sign = -1.0 if maximize else 1.0

    def order(row: Row) -> tuple[bool, float, tuple[float, float], str, int]:
        value = row.get(metric) if State(row["state"]).is_ranked else None
        tie = (0.0, 0.0) if value is None else tie_break(row)
        return value is None, sign * (value or 0.0), tie, row["study"], row["trial"]

    return sorted(rows, key=order)


def load_leaderboard(studies: Sequence[StudyInfo]) -> list[Row]:
    """All trials of the studies in one ranking; every row has every column.

    Raises:
        ValueError: the studies were ranked by different metrics.
    """
    objectives = {(study.metric, study.maximize) for study in studies}
    if len(objectives) > 1:
        names = ", ".join(f"{study.name}: {study.metric}" for study in studies)
        raise ValueError(f"these studies have different metrics ({names}): show them one by one")
    metric, maximize = objectives.pop()
    rows = [row for study in studies for row in load_trial_rows(study)]
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [dict.fromkeys(columns) | row for row in rows]
    return rank_rows(rows, metric=metric, maximize=maximize)


def print_leaderboard(study_dir: Path, *, top: int | None = 20, console: Console | None = None) -> None:
    """Print the table of one study, as at the end of a search."""
    print_table([load_study(study_dir)], top=top, console=console)


def print_table(
    studies: Sequence[StudyInfo], *, top: int | None = None, console: Console | None = None
) -> None:
    """Print one table of one or more studies, with the columns that the terminal has room for."""
    console = console or Console(markup=False, emoji=False)
    rows = load_leaderboard(studies)
    varying = find_varying(rows)
    for line in _header_lines(studies, rows, varying):
        console.print(line, highlight=False)
    if rows:
        shown = rows[: top or MOST_ROWS]
        columns, left_out = _fit_columns(
            shown, order_names(varying), metric=studies[0].metric, width=console.width
        )
        console.print(_make_table(shown, columns))
        notes = [f"{len(rows) - len(shown)} more trials: --top {len(rows)}"] if len(shown) < len(rows) else []
        notes += [f"also varies: {', '.join(left_out)} (--json has all)"] if left_out else []
        for note in notes:
            console.print(Text(note, style="dim"))
        if front := _front_line(studies, rows):
            console.print(Text(front))
        lines = (_best_line, _synthetic_line, _majority_line)
        for sentence in (line(studies, rows) for line in lines):
            if sentence:
                console.print(Text(sentence))


def _front_line(studies: Sequence[StudyInfo], rows: Sequence[Row]) -> str:
    objectives = objectives_of(studies[0])
    if len(objectives) < 2:
        return ""
    complete = [row for row in rows if row["state"] is State.COMPLETE]
    trials = [
        f"{row['trial']} ({', '.join(format_value(name, row[name]) for name in objectives)})"
        for row in find_front(complete, objectives)
    ]
    return f"Pareto front ({', '.join(objectives)}): " + "; ".join(trials)


def _best_line(studies: Sequence[StudyInfo], rows: Sequence[Row]) -> str:
    if not any(study.paths.trials.is_dir() for study in studies):
        return ""
    from analysis.comparison import describe_finalists  # numpy takes 0.2 s: not for --json

    return describe_finalists(rows, studies)


def _synthetic_line(studies: Sequence[StudyInfo], rows: Sequence[Row]) -> str:
    """Say whether synthetic images helped; empty of several studies, or where no trial used any."""
    if len(studies) > 1 or not any(row.get("synthetic_share") for row in rows):
        return ""
    from analysis.synthetic_images import describe_effect  # numpy takes 0.2 s: not for --json

    return describe_effect(rows, studies[0])


def _majority_line(studies: Sequence[StudyInfo], rows: Sequence[Row]) -> str:
    """Say what always answering the commonest class would reach, beside the best trial's value."""
    best = next((row for row in rows if row.get("kept_at_epoch") and State(row["state"]).has_value), None)
    study = next((study for study in studies if best and study.name == best["study"]), None)
    if best is None or study is None or not study.paths.trials.is_dir():
        return ""
    from analysis.majority import find_majority, suggest_metric  # numpy takes 0.2 s: not for --json
    from analysis.predictions import load_labels

    labels = load_labels(study.directory, best["trial"])
    majority = None if labels is None else find_majority(labels)
    if majority is None:
        return ""
    metric = study.metric if majority.reaches(study.metric) is not None else "val_accuracy"
    reached, value = majority.reaches(metric), best.get(metric)
    if reached is None or value is None:
        return ""
    name = class_name(study, majority.label)
    whose = f"trial {best['trial']}" + (f" of {study.name}" if len(studies) > 1 else "")
    images = f"{majority.num_images:,} of {majority.total:,} validation images"
    line = (
        f"{metric} of {whose} is {format_value(metric, value)}; always answering {name} ({images}) "
        f"would reach {format_value(metric, reached)}."
    )
    return f"{line} {suggest_metric(study.metric, majority)}".rstrip()


def class_name(study: StudyInfo, label: int) -> str:
    """Return the name of a class, fit for print, or its number if study.json has no name."""
    names = (study.facts.get("data") or {}).get("classes") or []
    return printable(names[label]) if label < len(names) else f"class {label}"


def to_json(rows: Sequence[Row]) -> str:
    """Write a JSON list of objects, one a trial, with every hyperparameter and metric."""
    return json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False)


def to_csv(rows: Sequence[Row]) -> str:
    """Write the rows of `as_json` as comma-separated values with a header line."""
    names = list(rows[0] if rows else TRIAL_COLUMNS)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def hyperparameter_names(rows: Sequence[Row]) -> list[str]:
    """Names of the hyperparameters that the trials have: an older study lacks the newer ones."""
    return [name for name in HYPERPARAMETERS if rows and name in rows[0]]


def find_varying(rows: Sequence[Row]) -> list[str]:
    """Names of the hyperparameters that differ between trials."""
    return [name for name in hyperparameter_names(rows) if any(row[name] != rows[0][name] for row in rows)]


def _header_lines(studies: Sequence[StudyInfo], rows: Sequence[Row], varying: Sequence[str]) -> list[Text]:
    title = Text(", ".join(study.name for study in studies), style="bold")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    title.append(f": {len(rows)} trials", style="not bold")
    title.append(
        f" ({', '.join(f'{num} {state}' for state, num in counts.items())})" if counts else "",
        style="not bold",
    )
    lines = [title]
    data = [study.facts.get("data") or {} for study in studies]
    if len({facts.get("contents") for facts in data}) > 1:
        lines.append(Text("different data: the values of these studies cannot be compared", style="yellow"))
    elif len({facts.get("fingerprint") for facts in data}) > 1:
        lines.append(
            Text("the same images, split differently: --by averages over the splits", style="yellow")
        )
    same = [name for name in hyperparameter_names(rows) if name not in varying and _has_effect(name, rows)]
    defaults: Mapping[str, Any] = studies[0].facts.get("config_defaults", {})
    fixed = [
        f"{name} {format_value(name, rows[0][name])}"
        for name in same
        if rows[0].get(name) not in (None, 0, "") and rows[0][name] != defaults.get(name)
    ]
    if fixed:
        lines.append(Text(f"same for all: {', '.join(fixed)}; the rest is at its default", style="dim"))
    for study in studies:
        if probes := describe_probes(study):
            lines.append(Text(probes if len(studies) == 1 else f"{study.name}: {probes}"))
    return lines


def _has_effect(name: str, rows: Sequence[Row]) -> bool:
    other, values = ONLY_WITH.get(name, ("", ""))
    return not other or any(row.get(other) in values.split() for row in rows)


def order_names(names: Sequence[str]) -> list[str]:
    """Sort the hyperparameters, those of FIRST first."""
    return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]


def _fit_columns(
    rows: Sequence[Row], varying: Sequence[str], *, metric: str, width: int
) -> tuple[list[str], list[str]]:
    """Split the columns into those that fit the width, and the hyperparameters that do not."""
    columns = (["study"] if len({row["study"] for row in rows}) > 1 else []) + ["trial", metric]
    tail = ["epochs", "seconds", "state"]
    left = width - sum(_column_width(rows, name) for name in columns + tail)
    left_out = []
    for name in varying:
        needed = _column_width(rows, name)
        if needed <= left:
            columns.append(name)
            left -= needed
        else:
            left_out.append(name)
    return columns + tail, left_out


def _column_width(rows: Sequence[Row], name: str) -> int:
    cells = [_cell(row, name) for row in rows]
    return max(len(header(name)), *(len(cell) for cell in cells)) + 2


def _make_table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        is_text = any(isinstance(row.get(name), str) for row in rows) and name != "epochs"
        table.add_column(header(name), justify="left" if is_text else "right", no_wrap=name != "state")
    for row in rows:
        style = "" if row["state"] is State.COMPLETE else "red" if row["state"] is State.FAILED else "dim"
        table.add_row(*(Text(_cell(row, name)) for name in columns), style=style)
    return table


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name == "epochs" and row.get("max_epochs"):
        return f"{row['epochs']}/{row['max_epochs']}"
    if name == "state" and row.get("reason") and row["state"] is not State.PRUNED:
        return f"{row['state']}: {row['reason']}"
    if name == "state" and row.get("recipe"):
        return f"{row['state']} (recipe)"
    return format_value(name, row.get(name))


def header(name: str) -> str:
    """Heading of a column in a narrow table."""
    return METRICS[name].title if name in METRICS else HEADERS.get(name, name.replace("_", " "))


def format_value(name: str, value: Any) -> str:
    """Format a cell: metrics with four decimals, hyperparameters with three digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if name in METRICS and METRICS[name].unit is not Unit.NONE:  # without a unit: a learning rate
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.3g}"


def objectives_of(study: StudyInfo) -> dict[str, Direction]:
    """Names of the metrics that the search was asked to improve; the first one ranks trials."""
    names = study.facts.get("metrics") or [study.metric]
    directions = study.facts.get("directions") or [study.direction]
    return {name: Direction(direction) for name, direction in zip(names, directions, strict=True)}


def find_front(rows: Sequence[Row], objectives: Mapping[str, Direction]) -> list[Row]:
    """Return the trials that no other beats in all objectives, best in the first objective first.

    Values are those of each trial's kept epoch, as everywhere on the leaderboard.
    Trials that lack one are left out, and equal ones stand on the front together.
    """
    signs = {name: direction.sign for name, direction in objectives.items()}
    points = [
        ([sign * row[name] for name, sign in signs.items()], row)
        for row in rows
        if all(row.get(name) is not None for name in signs)
    ]
    front: list[tuple[list[float], Row]] = []
    # Sorted, a trial can only be beaten by one before it, and then by one of the front.
    for point, row in sorted(points, key=lambda one: one[0], reverse=True):
        beaten = any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other, _ in front
        )
        if not beaten:
            front.append((point, row))
    return [row for _, row in front]
