"""Plain Ray Tune and Unfreeze on the same trials, alternating: how much sooner, and is the result the same?

    python -m benchmarks search --case frozen32 --repeat 3 --json search.json
    python -m benchmarks search --case all --repeat 3 --json all.json --reuse-plain search.json

Named cases: frozen32 and frozen256 (head-only trials), depths3 (16 trials, 0 to 3 stages unfrozen),
depths_all (16 trials, 0 to all), full (8 full fine-tunings), joint (free search until plain's best is
reached), warm (tune.py twice). The plain side takes about 40 s a trial on 2 cores: it runs the first
--plain-trials of a list, and its seconds are scaled to all. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.versus_plain.figures import (
    compare_runs,
    footnotes,
    make_profile_table,
    make_table,
    profile_rows,
)
from benchmarks.versus_plain.inputs import (
    CASES,
    JOINT_DEPTHS,
    POLICIES,
    Case,
    default_data,
    draw_trials,
    joint_space,
)
from benchmarks.versus_plain.sides import PlainRuns, SideFailed, Sides, hardware, prepare_sides
from benchmarks.versus_plain.special_cases import (
    ablate,
    make_ablation_table,
    make_joint_table,
    make_warm_table,
    measure_joint,
    measure_warm,
)
from contract.files import did_you_mean
from contract.machine import count_cpus

NAMES = (*(case.name for case in CASES), "joint", "warm")
WARM_TRIALS = 8
ABLATED = "frozen32"


class Comparison:
    """All runs of one command; what is known so far can be written at any time."""

    def __init__(self, flags: argparse.Namespace, sides: Sides) -> None:
        """Take the plain runs of --reuse-plain, if it is given.

        Raises:
            ValueError: --reuse-plain cannot be used.
        """
        self.flags, self.sides = flags, sides
        repeats = flags.plain_repeat or flags.repeat
        self.plain_runs = PlainRuns(sides, repeats=repeats, reuse=flags.reuse_plain)
        self.ours: dict[str, list[dict[str, Any]]] = {}
        self.cases: dict[str, dict[str, Any]] = {}
        self.joint: list[dict[str, Any]] = []
        self.warm: list[dict[str, Any]] = []
        self.ablation: list[dict[str, Any]] = []

    def run(self, cases: Sequence[Case], *, names: Sequence[str]) -> None:
        """Run every case once for each repeat, and last the ablation."""
        for repeat in range(self.flags.repeat):
            for case in cases:
                self.run_case(case, repeat=repeat)
                self.save()
            if "joint" in names:
                self.run_joint(repeat)
                self.save()
            if "warm" in names:
                label = self._label("warm", repeat)
                trials = self.flags.trials or WARM_TRIALS
                self.warm.append(measure_warm(self.sides, num_trials=trials, label=label))
                self.save()
        if self.flags.ablate:
            self.run_ablation(next(case for case in cases if case.name == ABLATED))
            self.save()

    def run_case(self, case: Case, *, repeat: int) -> None:
        trials, label = self._trials(case), self._label(case.name, repeat)
        first = trials[: self.flags.plain_trials]
        plain = self.plain_runs.listed(first, repeat=repeat, label=label)
        self.ours.setdefault(case.name, []).append(self.sides.ours(trials, label=label))
        self.cases[case.name] = compare_runs(
            case, plain, self.ours[case.name], plain_from=self.plain_runs.earlier_file(first)
        )

    def run_joint(self, repeat: int) -> None:
        space = joint_space(self.flags.depths or JOINT_DEPTHS, self.flags.policies)
        row = measure_joint(
            self.sides,
            self.plain_runs,
            space,
            num_trials=self.flags.trials or 32,
            repeat=repeat,
            label=self._label("joint", repeat),
        )
        self.joint.append(row)

    def run_ablation(self, case: Case) -> None:
        self.ablation = ablate(
            self.sides,
            self._trials(case),
            self.ours[case.name],
            num_slow=self.flags.plain_trials,
            label="ablation",
        )

    def median_run(self, name: str) -> dict[str, Any]:
        runs = sorted(self.ours[name], key=lambda run: float(run["seconds"]))
        return runs[len(runs) // 2]

    def results(self) -> dict[str, Any]:
        flags = self.flags
        settings = {
            "data": flags.data,
            "images": flags.images,
            "image_size": flags.image_size,
            "epochs": flags.epochs,
            "cpus": flags.cpus,
            "repeat": flags.repeat,
            "policies": list(flags.policies),
        }
        found: dict[str, Any] = {"hardware": hardware(), "settings": settings}
        found["cases"] = list(self.cases.values())
        if self.joint:
            ratios = [row["ratio"] or 0.0 for row in self.joint]
            found["joint"] = {"repeats": self.joint, "ratio_median": statistics.median(ratios)}
        if self.warm:
            found["warm"] = self.warm
        if self.ablation:
            found["ablation"] = self.ablation
        if flags.profile:
            found["profile"] = {name: profile_rows(self.median_run(name)) for name in self.ours}
        return found

    def save(self) -> None:
        """Write --json; called after every case, so that a failure does not lose hours of measuring."""
        if self.flags.json is not None:
            content = self.results() | {"plain_runs": self.plain_runs.runs, "our_runs": self.ours}
            self.flags.json.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def show(self, console: Console) -> None:
        figures = list(self.cases.values())
        if figures:
            console.print(make_table(figures))
            for note in footnotes(figures):
                console.print(note, markup=False)
        for rows, make in ((self.joint, make_joint_table), (self.warm, make_warm_table)):
            if rows:
                console.print(make(rows))
        if self.ablation:
            console.print(make_ablation_table(self.ablation))
        for name in self.ours if self.flags.profile else ():
            console.print(make_profile_table(name, self.median_run(name)))

    def _trials(self, case: Case) -> list[dict[str, Any]]:
        return draw_trials(case.num_trials, depths=case.depths, policies=self.flags.policies, seed=1)

    def _label(self, name: str, repeat: int) -> str:
        return f"{name}, repeat {repeat + 1} of {self.flags.repeat}"


def choose_cases(flags: argparse.Namespace) -> tuple[list[str], list[Case]]:
    """The names asked for, and the lists of trials among them, changed as the flags say.

    Raises:
        ValueError: a name is unknown, or the ablation's case is missing.
    """
    for name in flags.case:
        if name not in (*NAMES, "all"):
            hint = did_you_mean(name, NAMES)
            raise ValueError(f"--case must be of {', '.join(NAMES)}, all; got {name!r}{hint and f'; {hint}'}")
    names = list(NAMES) if "all" in flags.case else flags.case
    if flags.ablate and ABLATED not in names:
        raise ValueError(f"--ablate leaves parts out of {ABLATED}: add --case {ABLATED}")
    changes: dict[str, Any] = {"num_trials": flags.trials} if flags.trials else {}
    changes |= {"depths": tuple(flags.depths)} if flags.depths else {}
    return names, [replace(case, **changes) for case in CASES if case.name in names]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--case", nargs="+", default=["frozen32"], metavar="NAME", help="[frozen32]; or all")
    add_common_flags(parser)
    parser.add_argument("--trials", type=int, help="instead of each case's number")
    parser.add_argument("--depths", type=int, nargs="+", help="stages unfrozen, instead of each case's")
    parser.add_argument("--plain-trials", type=int, default=16, help="of a list; its seconds are scaled [16]")
    parser.add_argument("--plain-repeat", type=int, help="runs of the plain side [as --repeat]")
    parser.add_argument("--ablate", action="store_true", help=f"{ABLATED} again, each part left out in turn")
    parser.add_argument("--profile", action="store_true", help="where the time of our side goes")
    return parser


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `scaling` has too."""
    parser.add_argument("--data", default=str(default_data()), help="images, as tune.py's --data [flowers5]")
    parser.add_argument("--images", type=int, default=600, help="drawn of them, a fifth for validation [600]")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), help="augmentations [light]")
    parser.add_argument("--cpus", type=int, default=count_cpus(), help="trials at once [every core]")
    parser.add_argument("--reuse-plain", type=Path, metavar="FILE", help="plain's runs of an earlier --json")
    parser.add_argument("--no-warm-up", action="store_true", help="imports are compiled already")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side, alternating [1]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, after each case")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 means done, 1 that a side failed, 2 that the flags are wrong."""
    flags = make_parser().parse_args(argv)
    try:
        names, cases = choose_cases(flags)
        with tempfile.TemporaryDirectory() as folder:
            sides = prepare_sides(flags, Path(folder))
            comparison = Comparison(flags, sides)
            comparison.run(cases, names=names)
    except (ValueError, SideFailed) as error:
        print(f"benchmarks search: {error}", file=sys.stderr)
        return 1 if isinstance(error, SideFailed) else 2
    comparison.show(Console(width=max(100, 40 + 26 * len(cases), Console().width)))
    print(json.dumps(comparison.results()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
