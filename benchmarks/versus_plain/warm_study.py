"""A second study on the same data: how long until its first report, and from its last to the leaderboard."""

from __future__ import annotations

import csv
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.versus_plain.figures import spread, text_of
from benchmarks.versus_plain.sides import SideFailed, Sides, environment, repository

TARGETS = {"first_report_seconds": 15.0, "leaderboard_seconds": 3.0}


def measure_warm(sides: Sides, *, num_trials: int, label: str) -> dict[str, Any]:
    """Run the real tune.py twice, cache cold and then warm; figures of each."""
    folder = sides.folder / f"warm-{time.monotonic_ns()}"
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(path, f"class {own}", part) for part, rows in sides.images.items() for path, own in rows]
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
    lines, returncode = _read_lines(command)
    command_seconds = time.time() - begin
    printed = [moment for moment, line in lines if line.startswith(f"{study}: {num_trials} trials")]
    if returncode or not printed:
        tail = "\n".join(line for _, line in lines[-15:])
        raise SideFailed(f"tune.py ended with exit code {returncode}; the end of what it said:\n{tail}")
    with closing(sqlite3.connect(folder / "runs" / study / "study.db")) as database:
        first, last = database.execute("SELECT min(arrival), max(arrival) FROM epochs").fetchone()
    figures = {
        "first_report_seconds": first - begin,
        "search_seconds": last - first,
        "leaderboard_seconds": printed[0] - last,
        "command_seconds": command_seconds,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def _read_lines(command: list[str]) -> tuple[list[tuple[float, str]], int]:
    """Every line of output and errors, with its moment."""
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
        table.add_row(title, *cells, f"{TARGETS[name]:g}" if name in TARGETS else "")
    return table
