"""Seconds between trials of several workers: from a trial's last report to the next one's first update.

    python -m benchmarks worker_groups
    python -m benchmarks worker_groups --project ../before --json before.json

Runs the tune.py of this or of another checkout, one trial at a time, and reads the study that it leaves. The
first update is taken to begin an epoch's own seconds before the driver has its first report, so that the
way of that report counts too. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.versus_plain.figures import spread, text_of
from benchmarks.versus_plain.sides import hardware
from contract.study_layout import StudyPaths

PROJECT = Path(__file__).resolve().parents[1]
STUDY = "groups"


class SearchFailed(RuntimeError):
    """The search that is measured ended badly."""


def search_arguments(flags: argparse.Namespace, folder: Path) -> list[str]:
    """Arguments of the measured command: equal trials on the CPU, one after the other, none ended early."""
    line = f"tune.py --space {flags.space} --backbones lite0 --image-size 32 --max-epochs {flags.epochs}"
    line += f" --trials {flags.trials} --workers-per-trial {flags.workers} --gpus-per-trial 0 --concurrent 1"
    line += f" --scheduler none --searcher random --study {STUDY} --seed {flags.seed}"
    folders = ["--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    return [*line.split(), "--data", flags.data, *folders]


def run_search(flags: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Run the command to its end; the moment at which it began, and the seconds that it took.

    Raises:
        SearchFailed: it ended badly.
    """
    command = [sys.executable, *search_arguments(flags, folder)]
    environment = os.environ | {"PYTHONPATH": str(flags.project)}
    began = time.time()
    done = subprocess.run(
        command, cwd=flags.project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SearchFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return began, time.time() - began


def read_moments(database: Path) -> list[tuple[float, float]]:
    """Moments of each trial's first update and last report, in the order of the trials' ends."""
    sql = "SELECT trial, arrival, metrics FROM epochs ORDER BY arrival, epoch"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(sql).fetchall()
    moments: dict[int, tuple[float, float]] = {}
    for trial, arrival, metrics in rows:
        first_update = arrival - json.loads(metrics)["epoch_seconds"]
        moments[trial] = (moments.get(trial, (first_update, 0.0))[0], arrival)
    return sorted(moments.values(), key=lambda moment: moment[1])


def find_gaps(moments: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds from each trial's last report to the next one's first update."""
    ends, begins = [end for _, end in moments[:-1]], [begin for begin, _ in moments[1:]]
    return [begin - end for begin, end in zip(begins, ends, strict=True)]


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Run the search and return its figures.

    Raises:
        SearchFailed: it ended badly.
    """
    with tempfile.TemporaryDirectory() as folder:
        began, seconds = run_search(flags, Path(folder))
        moments = read_moments(StudyPaths(Path(folder) / "runs" / STUDY).database)
    gaps = find_gaps(moments)
    names = ("project", "space", "data", "trials", "epochs", "workers", "seed")
    return {
        "benchmark": "worker_groups",
        "hardware": hardware(),
        "settings": {name: str(getattr(flags, name)) for name in names},
        "first_update_seconds": round(moments[0][0] - began, 2),
        "gaps": [round(gap, 2) for gap in gaps],
        "gap_seconds": spread(gaps),
        "closing_seconds": round(began + seconds - moments[-1][1], 2),
        "command_seconds": round(seconds, 2),
    }


def make_table(found: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    rows = {
        "from the command to the first trial's first update (s)": f"{found['first_update_seconds']:.1f}",
        "from a trial's last report to the next one's first update (s), each": "  ".join(
            f"{gap:.1f}" for gap in found["gaps"]
        ),
        "  median (least to most)": text_of(found["gap_seconds"], 1),
        "from the last report to the command's end (s)": f"{found['closing_seconds']:.1f}",
        "whole command (s)": f"{found['command_seconds']:.1f}",
    }
    for title, value in rows.items():
        table.add_row(title, value)
    return table


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks worker_groups", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", default="digits", help="images, as tune.py's --data [digits]")
    parser.add_argument("--space", default="linear_probe", help="search space [linear_probe]")
    parser.add_argument("--trials", type=int, default=8, help="at least 2, in a row [8]")
    parser.add_argument("--epochs", type=int, default=2, help="of each trial [2]")
    parser.add_argument("--workers", type=int, default=2, help="of each trial, each on one core [2]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--project", type=Path, default=PROJECT, help="checkout whose tune.py runs [this]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that the search failed, 2 that the flags are wrong."""
    flags = make_parser().parse_args(argv)
    flags.project = flags.project.resolve()
    if flags.trials < 2 or not (flags.project / "tune.py").exists():
        print(
            "benchmarks worker_groups: pass --trials of 2 or more, and a --project with a tune.py",
            file=sys.stderr,
        )
        return 2
    try:
        found = measure(flags)
    except SearchFailed as error:
        print(f"benchmarks worker_groups: {error}", file=sys.stderr)
        return 1
    Console(width=max(140, Console().width)).print(make_table(found))
    if flags.json is not None:
        flags.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
