"""Whole commands beside each other, from their start to their exit: the rivals' scripts, and tune.py.

Each run gives its seconds, best validation accuracy so far over time, and the test accuracy of what it handed
over, which is measured after its clock has stopped.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.answer.record import load_answer
from benchmarks.versus_plain.inputs import JOINT_DEPTHS, joint_space
from benchmarks.versus_plain.sides import SideFailed, Sides
from benchmarks.versus_plain.special_cases import read_lines
from contract.study_layout import StudyPaths

SPACES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "linear_probe": ((0,), ("none", "flip", "light")),
    "demo": (JOINT_DEPTHS, ("none", "light")),
}
"""Spaces of tune.py that are compared, with their unfreeze depths and augmentation policies."""

Run = dict[str, Any]
TestAccuracy = Callable[[Path, list[list[Any]], int], float]
"""A kept file, [path, class number] of photos, and their size -> accuracy."""

Curve = list[tuple[float, float]]
"""(seconds since the command began, best accuracy so far), at each new best."""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Runs whole commands on the same photos."""

    sides: Sides
    test: list[list[Any]]
    """[path, class number] of photos that no command is given."""

    num_trials: int
    backbones: tuple[str, ...]
    space: str = "linear_probe"
    """One of SPACES."""

    def expert(self, *, seed: int, label: str) -> Run:
        """Run the expert's script, which trains heads alone on photos as they are."""
        return self._expert("expert_ray_tune", [], accuracy_of_head, seed=seed, label=label)

    def caching(self, *, seed: int, label: str) -> Run:
        """Run the script that caches activations of the space's depths and policies by hand."""
        depths, policies = SPACES[self.space]
        arguments = ["--depths", *map(str, depths), "--policies", *policies]
        return self._expert("caching_ray_tune", arguments, accuracy_of_network, seed=seed, label=label)

    def _expert(
        self, script: str, arguments: list[str], measure: TestAccuracy, *, seed: int, label: str
    ) -> Run:
        kept = self.sides.folder / f"{script}-{time.monotonic_ns()}.pt"
        arguments = [*arguments, "--trials", str(self.num_trials), "--backbones", *self.backbones]
        arguments += ["--seed", str(seed), "--out", str(kept)]
        found = self.sides.expert(arguments, label=label, script=script)
        began = found["command_began"]
        reports = [(moment - began, accuracy) for moment, accuracy in found["reports"]]
        return {
            "seconds": found["command_seconds"],
            "decoded_seconds": found["featured"] - began,
            "first_report_seconds": reports[0][0],
            "last_report_seconds": reports[-1][0],
            "chosen_val_accuracy": found["val_accuracy"],
            "test_accuracy": measure(kept, self.test, self.sides.image_size) if self.test else None,
            "curve": best_so_far(reports),
        }

    def naive(self, *, num_trials: int, seed: int, label: str) -> Run:
        """Run the naive script on fewer trials; its seconds are scaled to all of them."""
        space = joint_space(*SPACES[self.space])
        found = self.sides.plain_free(space, num_trials=num_trials, seed=seed, label=label)
        outside = found["command_seconds"] - found["fit_seconds"]
        reports = [(outside + moment, accuracy) for moment, accuracy in found["reports"]]
        best = max(found["trials"], key=lambda trial: trial["val_accuracy"])
        return {
            "seconds": outside + found["fit_seconds"] * self.num_trials / num_trials,
            "measured_trials": num_trials,
            "first_report_seconds": reports[0][0],
            "chosen_val_accuracy": best["val_accuracy"],
            "test_accuracy": self._test_naive(best, label) if self.test else None,
            "curve": best_so_far(reports),
        }

    def _test_naive(self, best: dict[str, Any], label: str) -> float:
        """Train the best configuration again, with the test photos in the place of the validation photos."""
        space = joint_space(*SPACES[self.space])
        config = {name: value for name, value in best.items() if name in space}
        images = {"train": self.sides.images["train"], "val": self.test}
        found = replace(self.sides, images=images).plain([config], label=f"{label}, test photos")
        return float(found["trials"][0]["val_accuracy"])

    def ours(self, *, seed: int, label: str, cache: Path) -> Run:
        """Run tune.py as a user does.

        Raises:
            SideFailed: it ended badly.
        """
        folder = self.sides.folder / f"ours-{time.monotonic_ns()}"
        table = write_table(folder, self.sides.images)
        command = [sys.executable, "tune.py", "--space", self.space, "--data", str(table)]
        command += ["--study", "whole", "--runs-dir", str(folder / "runs"), "--cache-dir", str(cache)]
        command += ["--trials", str(self.num_trials), "--max-epochs", str(self.sides.epochs)]
        command += ["--image-size", str(self.sides.image_size), "--seed", str(seed)]
        command += ["--backbones", *self.backbones]
        self.sides.say(f"{label}: ours …")
        began = time.time()
        lines, returncode = read_lines(command)
        ended = time.time()
        paths = StudyPaths(folder / "runs" / "whole")
        if returncode or not paths.model.card.is_file():
            tail = "\n".join(line for _, line in lines[-15:])
            raise SideFailed(f"tune.py ended with exit code {returncode}; the end of what it said:\n{tail}")
        self.sides.say(f"{label}: ours: whole command {ended - began:.1f} s")
        tested = accuracy_of_model(paths, self.test) if self.test else None
        return read_study(paths, lines, began=began, ended=ended) | {"test_accuracy": tested}

    def warm_up(self) -> None:
        """Run one trial of either side on a few photos, so that neither pays for compiling the imports."""
        few = {
            split: [row for label in (0, 1) for row in [row for row in rows if row[1] == label][:3]]
            for split, rows in self.sides.images.items()
        }
        sides = replace(self.sides, images=few, epochs=1)
        first = replace(self, sides=sides, num_trials=1, backbones=self.backbones[:1], test=[])
        first.expert(seed=0, label="warm-up")
        first.ours(seed=0, label="warm-up", cache=self.sides.folder / "warm-up")
        for path, _ in (*self.sides.images["train"], *self.sides.images["val"]):
            Path(path).read_bytes()  # into the page cache


def write_table(folder: Path, images: dict[str, list[list[Any]]]) -> Path:
    """Write the photos as a table with their splits, which tune.py takes as they are."""
    folder.mkdir(parents=True)
    table = folder / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(path, name_class(own), split) for split, rows in images.items() for path, own in rows]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return table


def name_class(label: int) -> str:
    return f"class {label}"


def best_so_far(reports: Iterable[Sequence[float]]) -> Curve:
    """The reports that are better than all before them, as (seconds, accuracy)."""
    curve: Curve = []
    for moment, accuracy in sorted((float(moment), float(accuracy)) for moment, accuracy in reports):
        if not curve or accuracy > curve[-1][1]:
            curve.append((round(moment, 3), accuracy))
    return curve


def best_at(curve: Curve, seconds: float) -> float | None:
    """The best accuracy that was reported by then; None before the first report."""
    return next((accuracy for moment, accuracy in reversed(curve) if moment <= seconds), None)


def seconds_to(curve: Curve, accuracy: float) -> float | None:
    """Seconds to the first report that is as good; None if there is none."""
    return next((moment for moment, reached in curve if reached >= accuracy), None)


def read_study(paths: StudyPaths, lines: Sequence[tuple[float, str]], *, began: float, ended: float) -> Run:
    """Read the moments of a run of tune.py from what it printed, its records and its files."""
    with closing(sqlite3.connect(paths.database)) as database:
        rows = database.execute("SELECT arrival, metrics, trial FROM epochs ORDER BY arrival").fetchall()
    reports = [(arrival - began, json.loads(metrics)["val_accuracy"]) for arrival, metrics, _ in rows]
    answer = load_answer(paths)
    assert answer is not None
    readme = "README.md"  # written again when everything else is there
    exported = [path for path in paths.model.directory.rglob("*") if path.is_file() and path.name != readme]
    decoded = next((moment for moment, line in lines if line.startswith("data: ")), ended)
    moments = {
        "seconds": ended - began,
        "decoded_seconds": decoded - began,
        "first_report_seconds": reports[0][0],
        "last_report_seconds": reports[-1][0],
        "page_seconds": paths.report.stat().st_mtime - began,
        "export_seconds": max(path.stat().st_mtime for path in exported) - began,
        "closing_seconds": ended - began - reports[-1][0],
    }
    return {name: round(value, 3) for name, value in moments.items()} | {
        "trials": len({trial for _, _, trial in rows}),
        "epochs": len(rows),
        "chosen_val_accuracy": answer.scores["val_accuracy"]["as_chosen"],
        "answer": [answer.rule, *(ref.name for ref in answer.refs)],
        "curve": best_so_far(reports),
    }


def accuracy_of_model(paths: StudyPaths, test: Sequence[Sequence[Any]]) -> float:
    """Measure the exported model on photos that the search did not have."""
    from serving.model import load_model

    answers = load_model(paths.model, device="cpu").classify([Path(path) for path, _ in test])
    hits = [
        not isinstance(found, str) and found.label == name_class(label)
        for found, (_, label) in zip(answers, test, strict=True)
    ]
    return sum(hits) / len(hits)


def accuracy_of_head(file: Path, test: list[list[Any]], image_size: int) -> float:
    """Measure the expert's head on photos that its search did not have."""
    import torch

    from benchmarks.versus_plain.expert_ray_tune import accuracy, compute_features, make_head, read_photos

    kept = torch.load(file, weights_only=True)
    pixels, labels = read_photos(test, image_size)
    features = compute_features(pixels, kept["config"]["backbone"])
    head = make_head(kept["config"], features.shape[1], len(list(kept["head"].values())[-1]))
    head.load_state_dict(kept["head"])
    return accuracy(head, features, labels)


def accuracy_of_network(file: Path, test: list[list[Any]], image_size: int) -> float:
    """Measure the network of the caching script on photos that its search did not have."""
    import torch

    from benchmarks.versus_plain.caching_ray_tune import compute_maps, make_network, read_squares
    from benchmarks.versus_plain.expert_ray_tune import accuracy, load_backbone

    kept = torch.load(file, weights_only=True)
    config, model = kept["config"], load_backbone(kept["config"]["backbone"])
    depth = config["unfreeze_depth"]
    network = make_network(config, model, len(list(kept["state"].values())[-1]))
    network.load_state_dict(kept["state"])
    squares, labels = read_squares(test, image_size)
    batches = squares.split(32)  # type: ignore[no-untyped-call]
    maps = [compute_maps(model, batch, [depth])[depth] for batch in batches]
    return accuracy(network, torch.cat(maps), labels)
