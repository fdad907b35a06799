"""Is a cascade of two models, one class against the rest and then the rest, better than a single model?

    python -m benchmarks cascade --data PHOTOS --one CLASS --seeds 3

Each seed searches three times with equal budgets on one cut of the photos: all classes, the one against the
rest, and the rest. Then the single model and the cascade read the same test images. The last line printed is
one line of JSON. The same command goes on where it was ended, if it is given --runs-dir.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.reading import load_study, load_trial_rows
from analysis.readings import load_readings
from contract.study_layout import StudyPaths

TASKS = {"all": None, "one": "{one},{one}\n*,rest\n", "rest": "{one},\n"}
"""Lines of the --classes file of each study; None = the classes as they are."""

METRICS = ("accuracy", "loss")


def run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=sys.stderr)


def search(task: str, seed: int, *, folder: Path, flags: argparse.Namespace) -> Path:
    """Run one search, or go on with it."""
    lines, name = TASKS[task], f"{task}-{seed}"
    words = ["--data", flags.data, "--space", flags.space, "--trials", str(flags.trials), "--seed", str(seed)]
    words += ["--max-epochs", str(flags.max_epochs), "--image-size", str(flags.image_size), "--study", name]
    words += ["--runs-dir", str(folder / "runs"), "--cache-dir", str(folder / "cache")]
    if lines is not None:
        file = folder / f"{task}.csv"
        file.write_text("class,name\n" + lines.format(one=flags.one), encoding="utf-8")
        words += ["--classes", str(file)]
    run("tune.py", *words)
    return folder / "runs" / name


def run_seed(seed: int, *, folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Test accuracy and log-loss of the single model and of the cascade, and the seconds of their trials."""
    studies = {task: search(task, seed, folder=folder, flags=flags) for task in TASKS}
    run("finalize.py", str(studies["all"]), "--test")
    run("finalize.py", str(studies["one"]), "--then", str(studies["rest"]), "--test")
    single, cascade = (load_readings(load_study(studies[task]))[0] for task in ("all", "one"))
    if list_test_images(studies["all"]) != list_test_images(studies["one"]):
        raise ValueError(f"seed {seed}: the single model and the cascade have read other test images")
    found: dict[str, Any] = {"seed": seed, "images": single.images}
    for name, reading in (("single", single), ("cascade", cascade)):
        found[name] = {metric: reading.record["scores"][metric]["value"] for metric in METRICS}
    found["single"]["seconds"] = trial_seconds(studies["all"])
    found["cascade"]["seconds"] = trial_seconds(studies["one"]) + trial_seconds(studies["rest"])
    return found


def list_test_images(study: Path) -> list[str]:
    with StudyPaths(study).manifest.open(newline="", encoding="utf-8") as file:
        return sorted(row["path"] for row in csv.DictReader(file) if row["split"] == "test")


def trial_seconds(study: Path) -> float:
    return sum(row["seconds"] or 0.0 for row in load_trial_rows(load_study(study)))


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of each metric, and of the cascade less the single model, with its standard error over seeds."""
    summary: dict[str, Any] = {}
    for metric in METRICS:
        gains = [row["cascade"][metric] - row["single"][metric] for row in rows]
        summary[metric] = {
            "single": statistics.fmean(row["single"][metric] for row in rows),
            "cascade": statistics.fmean(row["cascade"][metric] for row in rows),
            "cascade_less_single": statistics.fmean(gains),
            "standard_error": statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None,
        }
    return summary


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("seed", "test images", "model", "accuracy", "log-loss", "seconds of trials"):
        table.add_column(head)
    for row in rows:
        for name in ("single", "cascade"):
            one = row[name]
            values = (f"{one['accuracy']:.4f}", f"{one['loss']:.4f}", f"{one['seconds']:.0f}")
            table.add_row(str(row["seed"]), str(row["images"]), name, *values)
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cascade", description=__doc__)
    parser.add_argument("--data", required=True, help="photos, as for tune.py, with test images")
    parser.add_argument("--one", required=True, help="class that the first model tells from the rest")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--space", default="demo")
    parser.add_argument("--trials", type=int, default=6, help="of each of the three searches of a seed")
    parser.add_argument("--max-epochs", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--runs-dir", type=Path, help="keep the studies here, and go on with them")
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        kept = (flags.runs_dir or Path(folder)).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        rows = [run_seed(seed, folder=kept, flags=flags) for seed in range(flags.seeds)]
    print_rows(rows)
    budget = {name: getattr(flags, name) for name in ("data", "one", "space", "trials", "max_epochs")}
    print(json.dumps({"benchmark": "cascade", **budget, "rows": rows, "summary": summarize(rows)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
