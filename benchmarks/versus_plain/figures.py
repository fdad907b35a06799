"""Figures and tables of the speed comparison: medians, ratio, accuracies, and where our side's time goes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.inputs import Case
from benchmarks.versus_plain.measured_trial import PREFIX

Figures = dict[str, Any]
Run = dict[str, Any]

ROWS = (
    ("trials", "trials"),
    ("plain Ray Tune (s)", "plain_seconds"),
    ("  measured on", "plain_measured"),
    ("ours (s)", "ours_seconds"),
    ("  whole command (s)", "ours_command_seconds"),
    ("ratio", "ratio"),
    ("  target", "target"),
    ("best accuracy, plain", "plain_best"),
    ("best accuracy, ours", "ours_best"),
    ("mean accuracy, plain", "plain_mean"),
    ("mean accuracy, ours", "ours_mean"),
    ("ours - plain, a trial", "difference"),
    ("orchestration (s a trial)", "orchestration_seconds_a_trial"),
    ("floor (s)", "floor_seconds"),
    ("cache hits / misses", "cache_fetches"),
    ("cache written / read (MB)", "cache_megabytes"),
)


def compare_runs(
    case: Case, plain: Sequence[Run], ours: Sequence[Run], *, plain_from: str | None = None
) -> Figures:
    """Compute a case's figures over its repeats, each as median, least and most.

    The plain side may have run only the first trials of the list: then its seconds are scaled to all of them,
    and accuracies are compared over the trials that both ran.
    """
    num_plain = len(plain[0]["trials"])
    scale = case.num_trials / num_plain
    plain_seconds = spread(run["seconds"] * scale for run in plain)
    ours_seconds = spread(run["seconds"] for run in ours)
    figures: Figures = {
        "case": case.name,
        "trials": case.num_trials,
        "depths": list(case.depths),
        "plain_trials": num_plain,
        "plain_repeats": len(plain),
        "plain_from": plain_from,
        "repeats": len(ours),
        "plain_seconds": plain_seconds,
        "ours_seconds": ours_seconds,
        "ratio": ratio_of(plain_seconds, ours_seconds),
        "target": case.target,
        "accuracy": compare_accuracies(plain, ours),
        "cache": {
            name: statistics.median(run["cache"].get(name, 0) for run in ours) for name in ours[0]["cache"]
        },
    }
    for name in ("command_seconds", "orchestration_seconds_a_trial", "floor_seconds", "first_report_seconds"):
        figures[f"ours_{name}"] = spread(run[name] for run in ours)
    return figures


def compare_accuracies(plain: Sequence[Run], ours: Sequence[Run]) -> Figures:
    """Return best and mean accuracy of the last epochs, over the trials that both sides ran."""
    shared = len(plain[0]["trials"])
    pairs = [
        (theirs["val_accuracy"], own["val_accuracy"])
        for their_run, our_run in zip(plain, ours, strict=False)
        for theirs, own in zip(their_run["trials"], our_run["trials"][:shared], strict=True)
    ]
    differences = [own - theirs for theirs, own in pairs]
    return {
        "trials": shared,
        "plain_best": spread(max(_accuracies(run, shared)) for run in plain),
        "ours_best": spread(max(_accuracies(run, shared)) for run in ours),
        "plain_mean": spread(statistics.fmean(_accuracies(run, shared)) for run in plain),
        "ours_mean": spread(statistics.fmean(_accuracies(run, shared)) for run in ours),
        "difference_mean": statistics.fmean(differences),
        "difference_deviation": statistics.stdev(differences) if len(differences) > 1 else 0.0,
    }


def _accuracies(run: Run, shared: int) -> list[float]:
    return [trial["val_accuracy"] for trial in run["trials"][:shared]]


def spread(values: Iterable[float]) -> dict[str, float]:
    ordered = list(values)
    found = {"median": statistics.median(ordered), "least": min(ordered), "most": max(ordered)}
    return {name: round(value, 4) for name, value in found.items()}


def ratio_of(plain: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    """Ratio of the medians; least and most are the ratios of opposite extremes."""
    return {
        "median": round(plain["median"] / ours["median"], 2),
        "least": round(plain["least"] / ours["most"], 2),
        "most": round(plain["most"] / ours["least"], 2),
    }


def make_table(cases: Sequence[Figures]) -> Table:
    """The printed table, with a column for each case."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("median (least to most)")
    for figures in cases:
        table.add_column(figures["case"], justify="right", no_wrap=True)
    cells = [_cells(figures) for figures in cases]
    for title, name in ROWS:
        table.add_row(title, *(own[name] for own in cells))
    return table


def _cells(figures: Figures) -> dict[str, str]:
    accuracy, cache = figures["accuracy"], figures["cache"]
    measured = f"{figures['plain_trials']} trials"
    if figures["plain_trials"] < figures["trials"]:
        measured += ", scaled"
    if figures["plain_from"]:
        measured += ", earlier run"
    megabytes = [cache.get(name, 0) / 1e6 for name in ("bytes_written", "bytes_read")]
    difference = f"{accuracy['difference_mean']:+.4f} sd {accuracy['difference_deviation']:.4f}"
    cells = {
        "trials": str(figures["trials"]),
        "plain_seconds": text_of(figures["plain_seconds"], 1),
        "plain_measured": measured,
        "ours_seconds": text_of(figures["ours_seconds"], 1),
        "ours_command_seconds": text_of(figures["ours_command_seconds"], 1),
        "ratio": text_of(figures["ratio"], 1),
        "target": "" if figures["target"] is None else f"{figures['target']:g}",
        "difference": difference,
        "orchestration_seconds_a_trial": text_of(figures["ours_orchestration_seconds_a_trial"], 3),
        "floor_seconds": text_of(figures["ours_floor_seconds"], 1),
        "cache_fetches": f"{cache.get('hits', 0):.0f} / {cache.get('misses', 0):.0f}",
        "cache_megabytes": f"{megabytes[0]:.1f} / {megabytes[1]:.1f}",
    }
    names = ("plain_best", "ours_best", "plain_mean", "ours_mean")
    return cells | {name: text_of(accuracy[name], 4) for name in names}


def text_of(value: dict[str, float], digits: int) -> str:
    """`24.3 (23.9 to 25.0)`; the median alone where nothing was repeated."""
    middle, least, most = (f"{value[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return middle if least == most else f"{middle} ({least} to {most})"


def footnotes(figures: Sequence[Figures]) -> list[str]:
    """Write the lines below the table that say how its figures were taken."""
    notes = [
        "Seconds: plain from after ray.init to the last result; ours from the start of decoding to the last "
        "result, less Ray's own start, with a cold cache. No early stopping; both sides the same trials, "
        "images, epochs and compiled imports. Plain workers run at Ray's niceness, as a user's would.",
        "Orchestration: seconds in which a started worker computed no epoch. Floor: every distinct piece of "
        "work once, at the speed measured in this run, on all slots, plus decoding.",
    ]
    if any(own["plain_trials"] < own["trials"] for own in figures):
        notes.append("scaled: plain ran the first trials of the list, its seconds are multiplied up to all.")
    earlier = {own["plain_from"] for own in figures if own["plain_from"]}
    return notes + [f"earlier run: plain's figures are taken from {path}." for path in sorted(earlier)]


def profile_rows(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List (where, what, seconds, CPU seconds or None); the workers' add up to slots x wall time."""
    driver = {name: (span["seconds"], span["cpu_seconds"]) for name, span in run["driver"].items()}
    rows = [_row("driver", name, *driver.pop(name)) for name in ("decoding images", "opening the study")]
    rows.append(_row("driver", "Ray's own start (not in the clock)", run["ray_start_seconds"]))
    rows += [_row("driver", name, *both) for name, both in driver.items()]
    rows.append(_row("driver", "after the last result", run["closing_seconds"]))
    workers = {name: (span["seconds"], span["cpu_seconds"]) for name, span in run["workers"].items()}
    prefixes = {name: workers.pop(name) for name in list(workers) if name.startswith(PREFIX)}
    if prefixes:
        seconds, cpu = (sum(values) for values in zip(*prefixes.values(), strict=True))
        workers["frozen prefixes"] = (seconds, cpu)
    known = run["worker_start_seconds"] + sum(seconds for seconds, _ in workers.values())
    rows.append(_row("workers", "start of the processes", run["worker_start_seconds"]))
    rows += [_row("workers", *named) for named in _by_seconds(workers)]
    rows.append(_row("workers", "idle: between leases and at the end", run["window_seconds"] - known))
    rows.append(_row("workers", "all slots until the last result", run["window_seconds"]))
    return rows


def _by_seconds(spans: Mapping[str, tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [(name, *both) for name, both in sorted(spans.items(), key=lambda item: -item[1][0])]


def _row(where: str, what: str, seconds: float, cpu_seconds: float | None = None) -> dict[str, Any]:
    rounded = None if cpu_seconds is None else round(cpu_seconds, 3)
    return {"where": where, "what": what, "seconds": round(seconds, 3), "cpu_seconds": rounded}


def make_profile_table(case: str, run: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"time of {case}")
    table.add_column("what")
    for head in ("seconds", "CPU seconds", "share of all slots"):
        table.add_column(head, justify="right")
    for row in profile_rows(run):
        share = f"{row['seconds'] / run['window_seconds']:.1%}" if row["where"] == "workers" else ""
        cpu = "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.2f}"
        table.add_row(row["where"], row["what"], f"{row['seconds']:.2f}", cpu, share)
    return table
