"""Cost of a search by its number of head-only trials, of plain Ray Tune and of Unfreeze.

    python -m benchmarks scaling --repeat 3 --json scaling.json

Plain is measured on the first --plain-trials of the list and scaled; ours on every number, cold each time.
The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.search import add_common_flags
from benchmarks.versus_plain.figures import Figures, compare_runs, footnotes, text_of
from benchmarks.versus_plain.inputs import Case, draw_trials
from benchmarks.versus_plain.sides import PlainRuns, SideFailed, Sides, hardware, prepare_sides

NUMBERS = (8, 16, 32, 64, 128, 256)


def measure(flags: argparse.Namespace, sides: Sides) -> dict[str, Any]:
    """Measure every number of trials; --json gets what is known after each run.

    Raises:
        SideFailed: one side ended badly.
        ValueError: --reuse-plain cannot be used.
    """
    plain_runs = PlainRuns(sides, repeats=flags.repeat, reuse=flags.reuse_plain)
    ours: dict[int, list[dict[str, Any]]] = {number: [] for number in flags.numbers}
    found: dict[str, Any] = {"hardware": hardware(), "repeat": flags.repeat}
    figures: dict[int, Figures] = {}
    for repeat in range(flags.repeat):
        for number in flags.numbers:
            label = f"{number} trials, repeat {repeat + 1} of {flags.repeat}"
            trials = draw_trials(number, depths=(0,), policies=flags.policies, seed=1)
            first = trials[: flags.plain_trials]
            plain = plain_runs.listed(first, repeat=repeat, label=label)
            ours[number].append(sides.ours(trials, label=label))
            case = Case(name=str(number), num_trials=number, depths=(0,))
            earlier = plain_runs.earlier_file(first)
            figures[number] = compare_runs(case, plain, ours[number], plain_from=earlier)
            found["numbers"] = list(figures.values())
            if flags.json is not None:
                flags.json.write_text(
                    json.dumps(found | {"plain_runs": plain_runs.runs}, indent=1), encoding="utf-8"
                )
    return found


def make_table(figures: Sequence[Figures]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    heads = ("trials", "plain (s)", "ours (s)", "whole command (s)", "ratio", "ours: s a further trial")
    for head in heads:
        table.add_column(head, justify="right")
    before: Figures | None = None
    for own in figures:
        names = ("plain_seconds", "ours_seconds", "ours_command_seconds", "ratio")
        further = "" if before is None else f"{further_seconds(before, own):.3f}"
        table.add_row(str(own["trials"]), *(text_of(own[name], 1) for name in names), further)
        before = own
    return table


def further_seconds(before: Figures, after: Figures) -> float:
    """Seconds of each trial beyond the smaller number."""
    more = after["ours_seconds"]["median"] - before["ours_seconds"]["median"]
    return float(more / (after["trials"] - before["trials"]))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_common_flags(parser)
    parser.add_argument(
        "--numbers", type=int, nargs="+", default=list(NUMBERS), help="numbers of trials [8 to 256]"
    )
    parser.add_argument("--plain-trials", type=int, default=8, help="measured; scaled to the others [8]")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that a side failed, 2 that the flags are wrong."""
    flags = make_parser().parse_args(argv)
    flags.numbers = sorted(set(flags.numbers))
    try:
        with tempfile.TemporaryDirectory() as folder:
            sides = prepare_sides(flags, Path(folder))
            found = measure(flags, sides)
    except (ValueError, SideFailed) as error:
        print(f"benchmarks scaling: {error}", file=sys.stderr)
        return 1 if isinstance(error, SideFailed) else 2
    console = Console(width=max(120, Console().width))
    console.print(make_table(found["numbers"]))
    for note in footnotes(found["numbers"]):
        console.print(note, markup=False)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
