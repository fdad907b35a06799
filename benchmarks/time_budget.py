"""Whether `tune.py --time-budget` keeps its word: the prompt's return, and how good the model is.

    python -m benchmarks time_budget --budget 3m --repeats 5
    python -m benchmarks time_budget --budget 3m --repeats 5 --beside --json budget.json

Each repeat is a study of its own with another seed: tune.py as a user types it, then finalize.py --test,
whose seconds do not count. The first repeat finds an empty cache folder, later ones what the earlier left
there; with --cold each finds an empty one. --beside adds one search of 12 trials x 6 epochs without a time
budget, and prints what its first lines expected it to take. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.versus_plain.inputs import default_data
from benchmarks.versus_plain.sides import hardware
from contract.durations import parse_duration

GRACE = 9.0
"""Seconds that the prompt may come back after the time budget."""
ROOT = Path(__file__).parents[1]

Figures = dict[str, Any]


def run_search(
    flags: argparse.Namespace, folder: Path, *, name: str, seed: int, more: Sequence[str]
) -> Figures:
    """Run tune.py once, and read the test split of what it made."""
    cache = folder / (f"cache-{name}" if flags.cold else "cache")
    words = ["tune.py", "--space", flags.space, "--data", flags.data, "--study", name, "--seed", str(seed)]
    words += ["--runs-dir", str(folder / "runs"), "--cache-dir", str(cache), *more]
    began = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    figures: Figures = {"study": name, "seconds": round(seconds, 1), "exit_code": done.returncode}
    figures["plan"] = [line for line in done.stdout.splitlines() if re.match("plan|time:", line)]
    if done.returncode:
        figures["error"] = (done.stderr.strip().splitlines() or [""])[-1]
    model = folder / "runs" / name / "model"
    figures["exported"] = (model / "classifier.pt2").exists()
    figures["reported"] = (folder / "runs" / name / "report.html").exists()
    return figures | _count_trials(folder, name) | (_read_test(folder, name) if figures["exported"] else {})


def _count_trials(folder: Path, name: str) -> Figures:
    words = [sys.executable, "-m", "analysis", "leaderboard", str(folder / "runs" / name), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {}
    states = [row["state"] for row in json.loads(done.stdout)]
    return {"trials": len(states), "complete": states.count("complete")}


def _read_test(folder: Path, name: str) -> Figures:
    """The one reading of the test split, as finalize.py prints it."""
    words = [sys.executable, "finalize.py", name, "--runs-dir", str(folder / "runs"), "--test"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"^accuracy: .*test split ([0-9.]+)%", done.stdout, flags=re.MULTILINE)
    return {"test_accuracy": float(found[1]) / 100} if found else {}


def make_table(budget: str, runs: Sequence[Figures]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("run", "prompt back (s)", "in time", "exported", "report", "trials", "complete", "test"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    limit = parse_duration(budget) + GRACE
    for run in runs:
        test = run.get("test_accuracy")
        is_free = run["study"] == "free"
        table.add_row(
            "12 trials x 6 epochs" if is_free else f"{budget}, {run['study']}",
            f"{run['seconds']:.1f}",
            "-" if is_free else "yes" if run["seconds"] <= limit else "NO",
            *("yes" if run[name] else "NO" for name in ("exported", "reported")),
            *(str(run.get(name, "-")) for name in ("trials", "complete")),
            "-" if test is None else f"{test:.3f}",
        )
    return table


def measure(flags: argparse.Namespace, folder: Path) -> list[Figures]:
    runs = []
    for repeat in range(flags.repeats):
        seed = flags.seed + repeat
        more = ["--time-budget", flags.budget]
        runs.append(run_search(flags, folder, name=f"seed-{seed}", seed=seed, more=more))
        print("\n".join([*runs[-1]["plan"], runs[-1].get("error", "")]), flush=True)
    if flags.beside:
        more = ["--trials", "12", "--max-epochs", "6"]
        runs.append(run_search(flags, folder, name="free", seed=flags.seed, more=more))
        print("\n".join(runs[-1]["plan"]), flush=True)
    return runs


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks time_budget", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", default=str(default_data()), help="photos, as tune.py's --data [flowers5]")
    parser.add_argument("--space", default="demo", help="search space [demo]")
    parser.add_argument("--budget", default="3m", help="time budget of each run [3m]")
    parser.add_argument("--repeats", type=int, default=5, help="runs, each with another seed [5]")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next has the next [0]")
    parser.add_argument("--cold", action="store_true", help="an empty cache folder for every run")
    parser.add_argument("--beside", action="store_true", help="one search of 12 trials x 6 epochs, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means that every run was in time with model and report, 1 one was not, 2 wrong flags."""
    flags = make_parser().parse_args(argv)
    try:
        limit = parse_duration(flags.budget) + GRACE
    except ValueError as error:
        print(f"benchmarks time_budget: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(flags, Path(folder))
    Console(width=max(120, Console().width)).print(make_table(flags.budget, runs))
    names = ("data", "space", "budget", "repeats", "seed", "cold")
    settings = {name: getattr(flags, name) for name in names}
    values = {"benchmark": "time_budget", "hardware": hardware(), "settings": settings, "runs": runs}
    if flags.json is not None:
        flags.json.write_text(json.dumps(values, indent=1), encoding="utf-8")
    print(json.dumps(values))
    budgeted = [run for run in runs if run["study"] != "free"]
    kept = all(run["seconds"] <= limit and run["exported"] and run["reported"] for run in budgeted)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
