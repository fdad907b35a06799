"""Compares two studies: settings, space, versions and results, and a test of which one is better."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.comparison import PairedTest, compare_predictions, describe_test, find_finalists
from analysis.leaderboard import load_leaderboard
from analysis.reading import Row, StudyInfo

IGNORED = ("study", "created", "storage", "tracking_uri", "status", "runs", "flags.study", "flags.runs_dir")
"""Names in study.json that are ignored, since they differ between any two studies."""


def compare_studies(first: StudyInfo, second: StudyInfo) -> dict[str, Any]:
    """Return `changes` as {name: [first, second]}, `results` by study, and `verdict`, a sentence."""
    facts = flatten(first.facts), flatten(second.facts)
    names = [name for name in dict.fromkeys((*facts[0], *facts[1])) if name not in IGNORED]
    changes = {
        name: [facts[0].get(name), facts[1].get(name)]
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    }
    rows = load_leaderboard([first]), load_leaderboard([second])
    results = [_summarise(study, own) for study, own in zip((first, second), rows, strict=True)]
    return {
        "studies": [first.name, second.name],
        "changes": changes,
        "results": results,
        "verdict": _say_which_is_better(first, second, rows[0], rows[1]),
    }


def flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten study.json to names like data.classes and space.learning_rate; lists become text."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "space_table":
            flat |= {f"space.{row['name']}": row["values"] for row in value or []}
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = (
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            )
    return flat


def _summarise(study: StudyInfo, rows: list[Row]) -> dict[str, Any]:
    best, _ = find_finalists(rows)
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    return {
        "trials": len(rows),
        **states,
        "epochs": sum(row["epochs"] for row in rows),
        "trial_seconds": round(sum(row["seconds"] or 0.0 for row in rows), 1),
        "best_trial": best["trial"] if best else None,
        f"best_{study.metric}": best[study.metric] if best else None,
        **{name: best.get(name) if best else None for name in ("backbone", "regime", "unfreeze_depth")},
    }


def _say_which_is_better(first: StudyInfo, second: StudyInfo, rows: list[Row], others: list[Row]) -> str:
    if (first.metric, first.direction) != (second.metric, second.direction):
        return f"different metrics ({first.metric}, {second.metric}): the studies cannot be ranked together"
    one, other = ((study.facts.get("data") or {}) for study in (first, second))
    if one.get("contents") != other.get("contents"):
        return "different data: the values of the two studies cannot be compared"
    if one.get("fingerprint") != other.get("fingerprint"):
        return (
            "the same images, split differently: no image by image test is possible; "
            "leaderboard --by averages over the splits"
        )
    best, rival = find_finalists(rows)[0], find_finalists(others)[0]
    if best is None or rival is None:
        return "one of the studies has no trial with a result"
    tested = _test_finalists(first, second, best, rival)
    if tested is None:
        return "whether one is really better cannot be said: predictions for the same images are missing"
    names = [f"trial {row['trial']} of {study.name}" for study, row in ((first, best), (second, rival))]
    return describe_test(tested, first=names[0], second=names[1])


def _test_finalists(first: StudyInfo, second: StudyInfo, best: Row, rival: Row) -> PairedTest | None:
    from analysis.image_table import load_groups
    from analysis.predictions import load_predictions

    ours = load_predictions(first.directory, best["trial"], groups=load_groups(first.directory))
    theirs = load_predictions(second.directory, rival["trial"], groups=load_groups(second.directory))
    if ours is None or theirs is None:
        return None
    return compare_predictions(ours, theirs, metric=first.metric, direction=first.direction)


def print_comparison(comparison: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the result of `compare_studies` as tables and sentences."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    first, second = comparison["studies"]
    results = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in ("result", first, second):
        results.add_column(Text(head))
    names = dict.fromkeys((*comparison["results"][0], *comparison["results"][1]))
    for name in names:
        results.add_row(name, *(Text(_show(one.get(name))) for one in comparison["results"]))
    console.print(results)
    if comparison["changes"]:
        changes = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for head in ("changed", first, second):
            changes.add_column(Text(head), overflow="fold")
        for name, values in comparison["changes"].items():
            changes.add_row(Text(name), *(Text(_show(value)) for value in values))
        console.print()
        console.print(changes)
    else:
        console.print("nothing changed but the name")
    console.print()
    console.print(Text(comparison["verdict"]))


def _show(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
