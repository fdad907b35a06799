"""Whole commands, from pressing return to the prompt: tune.py beside what an expert and a beginner write.

    python -m benchmarks whole_command --trials 24 --repeats 1
    python -m benchmarks whole_command --trials 24 192 --repeats 5 --warm --caching --naive 8 --json x.json
    python -m benchmarks whole_command --space demo --trials 16 --caching

The commands alternate on the same photos: expert_ray_tune.py (heads on features that are computed once),
caching_ray_tune.py if --caching asks for it (maps of every depth and policy are cached by hand before the
search), plain_ray_tune.py if --naive does (40 s a trial on 2 cores; its seconds are scaled), and tune.py as a
user runs it: all policies of the space, MLflow, report and exported model, by default with a cold cache. What
each hands over is measured on photos that it did not have, after its clock has stopped. Each repeat has
another seed and the same photos. The last line printed is one line of JSON; in it each run has its `curve`:
(seconds since its command began, best validation accuracy so far).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.versus_plain.commands import SPACES, Commands, Run, best_at, seconds_to
from benchmarks.versus_plain.figures import spread, text_of
from benchmarks.versus_plain.inputs import default_data, draw_images, draw_test_images
from benchmarks.versus_plain.sides import SideFailed, Sides, hardware
from contract.machine import count_cpus

SIDES = ("expert", "caching", "naive", "ours", "ours, warm cache")
MOMENTS = (10, 15, 20, 25, 30, 40, 60)
"""Seconds since the command began, at which the best accuracy so far is shown."""

ROWS = (
    ("photos decoded; the experts': features (s)", "decoded_seconds", 1),
    ("first report (s)", "first_report_seconds", 1),
    ("last report (s)", "last_report_seconds", 1),
    ("report page (s)", "page_seconds", 1),
    ("export (s)", "export_seconds", 1),
    ("end of the command (s)", "seconds", 1),
    ("from the last report to the end (s)", "closing_seconds", 1),
    ("best validation accuracy of a report", "best_val_accuracy", 4),
    ("validation accuracy of what is handed over", "chosen_val_accuracy", 4),
    ("its test accuracy", "test_accuracy", 4),
    ("the expert's best accuracy reached after (s)", "as_expert_seconds", 1),
    *((f"best validation accuracy after {moment} s", f"after_{moment}", 4) for moment in MOMENTS),
)

Figures = dict[str, Any]


def run_repeat(commands: Commands, flags: argparse.Namespace, seed: int) -> dict[str, Run]:
    """Run every command once; all runs by the name of the side."""
    label = f"{commands.num_trials} trials, seed {seed}"
    cache = commands.sides.folder / f"cache-{commands.num_trials}-{seed}"
    runs = {"expert": commands.expert(seed=seed, label=label)}
    if flags.caching:
        runs["caching"] = commands.caching(seed=seed, label=label)
    if flags.naive:
        runs["naive"] = commands.naive(num_trials=flags.naive, seed=seed, label=label)
    runs["ours"] = commands.ours(seed=seed, label=label, cache=cache)
    if flags.warm:
        runs["ours, warm cache"] = commands.ours(seed=seed, label=f"{label}, warm cache", cache=cache)
    best = runs["expert"]["curve"][-1][1]
    for run in runs.values():
        run["best_val_accuracy"] = run["curve"][-1][1]
        run["as_expert_seconds"] = seconds_to(run["curve"], best)
        run |= {f"after_{moment}": best_at(run["curve"], moment) for moment in MOMENTS}
    return runs


def summarise(repeats: Sequence[Mapping[str, Run]]) -> Figures:
    """Median, least and most of each figure over the repeats, by side, and how many of them have it."""
    summary: Figures = {}
    for side in (side for side in SIDES if side in repeats[0]):
        runs = [runs[side] for runs in repeats]
        summary[side] = {}
        for _, name, _ in ROWS:
            values = [run[name] for run in runs if run.get(name) is not None]
            if values:
                summary[side][name] = spread(values) | {"runs": len(values)}
    return summary


def make_table(num_trials: int, repeats: Sequence[Mapping[str, Run]]) -> Table:
    summary = summarise(repeats)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"{num_trials} trials, median (least to most)")
    for side in summary:
        table.add_column(side, justify="right", no_wrap=True)
    for title, name, digits in ROWS:
        if any(name in figures for figures in summary.values()):
            cells = (_cell(figures.get(name), digits, len(repeats)) for figures in summary.values())
            table.add_row(title, *cells)
    return table


def _cell(figure: Figures | None, digits: int, repeats: int) -> str:
    """`24.3 (23.9 to 25.0)`, and in how many repeats, where some lack the figure."""
    if figure is None:
        return "-"
    lacking = "" if figure["runs"] == repeats else f", {figure['runs']} of {repeats} runs"
    return text_of(figure, digits) + lacking


def prepare(flags: argparse.Namespace, folder: Path) -> tuple[Sides, list[list[Any]]]:
    """Draw the photos of all commands, and those of the test.

    Raises:
        ValueError: a class has too few.
    """
    images = draw_images(flags.data, num_images=flags.images, seed=0)
    test = draw_test_images(flags.data, images, num_images=flags.test_images, seed=0)
    sides = Sides(
        folder=folder, images=images, image_size=flags.image_size, epochs=flags.epochs, cpus=flags.cpus
    )
    return sides, test


def measure(flags: argparse.Namespace, folder: Path) -> dict[int, list[dict[str, Run]]]:
    """Run everything that the flags ask for; all repeats by the number of trials.

    Raises:
        ValueError: the photos cannot be drawn.
        SideFailed: a command ended badly.
    """
    sides, test = prepare(flags, folder)
    each = {
        number: Commands(
            sides=sides, test=test, num_trials=number, backbones=tuple(flags.backbones), space=flags.space
        )
        for number in flags.trials
    }
    if not flags.no_warm_up:
        next(iter(each.values())).warm_up()
    found: dict[int, list[dict[str, Run]]] = {number: [] for number in each}
    for repeat in range(flags.repeats):
        for number, commands in each.items():
            found[number].append(run_repeat(commands, flags, flags.seed + repeat))
            if flags.json is not None:
                flags.json.write_text(json.dumps(as_values(flags, found), indent=1), encoding="utf-8")
    return found


def as_values(flags: argparse.Namespace, found: Mapping[int, Sequence[Mapping[str, Run]]]) -> Figures:
    """Everything as plain values: the machine, the settings, and the figures with all runs behind them."""
    names = (
        "space",
        "data",
        "images",
        "test_images",
        "image_size",
        "epochs",
        "backbones",
        "cpus",
        "seed",
        "repeats",
    )
    return {
        "benchmark": "whole_command",
        "hardware": hardware(),
        "settings": {name: getattr(flags, name) for name in names},
        "trials": [
            {"trials": number, "summary": summarise(repeats), "runs": repeats}
            for number, repeats in found.items()
            if repeats
        ],
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks whole_command", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--space", choices=tuple(SPACES), default="linear_probe", help="of tune.py")
    parser.add_argument("--data", default=str(default_data()), help="photos, as tune.py's --data [flowers5]")
    parser.add_argument("--images", type=int, default=600, help="drawn of them, a fifth to validate [600]")
    parser.add_argument("--test-images", type=int, default=200, help="drawn of the others; 0 = no test [200]")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--backbones", nargs="+", default=["lite0"], help="of both searches [lite0]")
    parser.add_argument("--cpus", type=int, default=count_cpus(), help="rivals' trials at once [every core]")
    parser.add_argument("--trials", type=int, nargs="+", default=[24], help="of each search [24]")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each command, alternating [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat; the next has the next [0]")
    parser.add_argument("--warm", action="store_true", help="tune.py again on the cache that it has left")
    parser.add_argument("--caching", action="store_true", help="caching_ray_tune.py, on the space's depths")
    parser.add_argument("--naive", type=int, default=0, metavar="TRIALS", help="trials of plain_ray_tune [0]")
    parser.add_argument("--no-warm-up", action="store_true", help="imports are compiled already")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, after each repeat")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that a command failed, 2 that the flags are wrong."""
    flags = make_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(flags, Path(folder))
    except (ValueError, SideFailed) as error:
        print(f"benchmarks whole_command: {error}", file=sys.stderr)
        return 1 if isinstance(error, SideFailed) else 2
    console = Console(width=max(140, Console().width))
    for number, repeats in found.items():
        console.print(make_table(number, repeats))
    console.print(
        "Seconds: from the start of each process. The rivals write one network to a file; the expert's tries "
        "heads on photos that are not augmented; ours writes MLflow, a report page and an exported model."
    )
    print(json.dumps(as_values(flags, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
