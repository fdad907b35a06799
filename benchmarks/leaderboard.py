"""Leaderboard and report of a large synthetic study, in seconds.

    python -m benchmarks leaderboard --trials 10000 --epochs 30

The last line printed is one line of JSON: `leaderboard_s` and `report_s` with the start of a bare Python
process taken off, and `report_mb`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.simulated.study import make_synthetic_study

TARGETS = {"leaderboard_s": 2.0, "report_s": 30.0, "report_mb": 15.0}


def measure(directory: Path, *, repeats: int) -> dict[str, Any]:
    """Median seconds of each command as a user runs it."""
    start = time_command("-c", "pass", repeats=repeats)
    leaderboard = time_command("-m", "analysis", "leaderboard", str(directory), repeats=repeats)
    as_json = time_command("-m", "analysis", "leaderboard", str(directory), "--json", repeats=repeats)
    report = time_command("-m", "analysis", "report", str(directory), repeats=1)
    return {
        "process_start_s": round(start, 3),
        "leaderboard_s": round(leaderboard - start, 3),
        "leaderboard_json_s": round(as_json - start, 3),
        "report_s": round(report - start, 3),
        "report_mb": round((directory / "report.html").stat().st_size / 1e6, 2),
    }


def time_command(*arguments: str, repeats: int) -> float:
    """Median seconds of a Python process."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the leaderboard; the median counts")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "synthetic"
        make_synthetic_study(directory, trials=flags.trials, epochs=flags.epochs)
        result = measure(directory, repeats=flags.repeats)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in (f"{flags.trials:,} trials x {flags.epochs} epochs", "measured", "target"):
        table.add_column(head)
    for name, value in result.items():
        table.add_row(name, str(value), f"< {TARGETS[name]:g}" if name in TARGETS else "")
    Console().print(table)
    print(json.dumps({"trials": flags.trials, "epochs": flags.epochs, **result}))


if __name__ == "__main__":
    main()
