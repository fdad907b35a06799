"""Measurements other than a fixed list of trials on both sides, each with its table.

In `joint` both sides search freely, `warm` runs tune.py twice, the ablation leaves parts out of our engine.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.figures import spread, text_of
from benchmarks.versus_plain.inputs import Trial, published_recipes
from benchmarks.versus_plain.shared_search import LEFT_OUT
from benchmarks.versus_plain.sides import PlainRuns, SideFailed, Sides, environment, repository
from contract.study_layout import StudyPaths

MOST_TRIALS = 8
"""Our joint search gives up after this many times the trials of the plain one."""

JOINT_TARGET = 10.0
WARM_TARGETS = {"first_report_seconds": 15.0, "leaderboard_seconds": 3.0}
SLOW = ("activation cache", "worker reuse")
"""Parts without which every trial costs seconds: a part of the list is run, and scaled."""


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
        (f"ratio (target {JOINT_TARGET:g})", "ratio"),
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


def measure_warm(sides: Sides, *, num_trials: int, label: str) -> dict[str, Any]:
    """Run tune.py twice, with a cold and then a warm cache; the figures of each run."""
    folder = sides.folder / f"warm-{time.monotonic_ns()}"
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(path, f"class {own}", split) for split, rows in sides.images.items() for path, own in rows]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    figures = {}
    for study in ("cold", "warm"):
        sides.say(f"{label}: tune.py, {study} cache …")
        figures[study] = run_tune(folder, study, sides=sides, num_trials=num_trials)
        sides.say(f"{label}: {figures[study]['command_seconds']:.1f} s")
    return figures


def run_tune(folder: Path, study: str, *, sides: Sides, num_trials: int) -> dict[str, float]:
    """Seconds from the command to its first report, and from the last report to the printed leaderboard.

    Raises:
        SideFailed: tune.py ended badly.
    """
    command = [sys.executable, "tune.py", "--space", "demo", "--data", str(folder / "images.csv")]
    command += ["--study", study, "--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    command += ["--trials", str(num_trials), "--max-epochs", str(sides.epochs), "--scheduler", "none"]
    command += ["--image-size", str(sides.image_size), "--concurrent", str(sides.cpus)]
    begin = time.time()
    lines, returncode = read_lines(command)
    command_seconds = time.time() - begin
    printed = [moment for moment, line in lines if line.startswith(f"{study}: {num_trials} trials")]
    if returncode or not printed:
        tail = "\n".join(line for _, line in lines[-15:])
        raise SideFailed(f"tune.py ended with exit code {returncode}; the end of what it said:\n{tail}")
    with closing(sqlite3.connect(StudyPaths(folder / "runs" / study).database)) as database:
        first, last = database.execute("SELECT min(arrival), max(arrival) FROM epochs").fetchone()
    figures = {
        "first_report_seconds": first - begin,
        "search_seconds": last - first,
        "leaderboard_seconds": printed[0] - last,
        "command_seconds": command_seconds,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def read_lines(command: list[str]) -> tuple[list[tuple[float, str]], int]:
    """Run a command; (Unix time, line) of all it prints, and its exit code."""
    variables = environment() | {"COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=repository(), env=variables, text=True, **pipes)  # type: ignore[call-overload]
    lines: list[tuple[float, str]] = []

    def read() -> None:
        lines.extend((time.time(), line.rstrip(os.linesep)) for line in process.stdout)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        reader.join()
    return lines, process.returncode


def make_warm_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("tune.py, median (least to most)")
    for study in ("cold", "warm"):
        table.add_column(f"{study} cache", justify="right")
    table.add_column("target (warm)", justify="right")
    titles = {
        "first_report_seconds": "command to first report (s)",
        "search_seconds": "first to last report (s)",
        "leaderboard_seconds": "last report to leaderboard (s)",
        "command_seconds": "whole command (s)",
    }
    for name, title in titles.items():
        cells = [text_of(spread(row[study][name] for row in rows), 1) for study in ("cold", "warm")]
        table.add_row(title, *cells, f"{WARM_TARGETS[name]:g}" if name in WARM_TARGETS else "")
    return table


def ablate(
    sides: Sides, trials: Sequence[Trial], whole: Sequence[dict[str, Any]], *, num_slow: int, label: str
) -> list[dict[str, Any]]:
    """One row for each left-out part, repeated as often as there are runs of the whole engine."""
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
    """Seconds for `scale` times the trials; what comes before the first report does not grow with them."""
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
