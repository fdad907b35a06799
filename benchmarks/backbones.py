"""Does --backbones auto keep the right ones? Frozen features of five photo sets, and what searches found.

Frozen features of the packaged backbones are judged as `--backbones auto` does, on the training and
validation photos of the sets that `python -m benchmarks search_quality` recorded. The table says what each
choice costs: a full search of some backbones hands over the row that validation prefers among all of theirs,
and regret is the test accuracy that it lacks against the full search of all, in points; it may be negative.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from analysis.calibration.backbones import JudgedBackbone, choose_backbones, judge_features
from benchmarks.quality.past import make_world
from benchmarks.quality.record import prepare
from benchmarks.quality.rows import BACKBONES
from benchmarks.quality.splits import SETS
from benchmarks.search_quality import RULE
from contract.study_layout import StudyPaths
from trainables.data.manifest import read_manifest
from trainables.export.frozen_features import frozen_features


def judge_set(name: str, folder: Path) -> list[JudgedBackbone]:
    """Judge the backbones on a set's training and validation photos."""
    settings = prepare(name, folder, judged=("val",))
    manifest = read_manifest(StudyPaths(Path(settings.study_directory)).manifest, settings.classes)
    hits = {}
    for backbone in BACKBONES:
        found = frozen_features({"backbone": backbone}, settings)
        (train_ids, train), (val_ids, val) = found["train"], found["val"]
        labels = manifest.labels[train_ids], manifest.labels[val_ids]
        hits[backbone] = judge_features(train, labels[0], val, labels[1], num_classes=len(settings.classes))
        print(f"{name}: {backbone} judged", file=sys.stderr)
    groups = manifest.groups[manifest.indices("val")]
    return choose_backbones(hits, groups, favourite=BACKBONES[0])


def full_search(name: str, backbones: Sequence[str], *, seeds: int) -> float:
    """Test accuracy of the row that validation prefers among all of these backbones, the mean over seeds."""
    world = make_world(name, BACKBONES)
    rows = [row.number for row in world.rows if row.config["backbone"] in backbones]
    chosen = [world.table.choose(rows, RULE, seed=seed, ties="loss") for seed in range(seeds)]
    return statistics.fmean(world.table.test_of(row, RULE) for row in chosen)


def choices(judged: Sequence[JudgedBackbone]) -> dict[str, list[str]]:
    """Backbones that each way of choosing would search."""
    known = [one for one in judged if one.neighbours and one.ridge]
    by_neighbours = max(known, key=lambda one: one.neighbours.value if one.neighbours else 0.0)
    by_ridge = max(known, key=lambda one: one.ridge.value if one.ridge else 0.0)
    return {
        "all": [one.name for one in judged],
        "auto": [one.name for one in judged if one.kept],
        "favourite alone": [judged[0].name],
        "best neighbours alone": [by_neighbours.name],
        "best ridge alone": [by_ridge.name],
    }


def print_judged(name: str, judged: Sequence[JudgedBackbone], *, seeds: int) -> None:
    for one in judged:
        assert one.neighbours is not None and one.ridge is not None
        shares = " | ".join(
            f"{100 * s.value:.1f} ({100 * s.low:.1f} to {100 * s.high:.1f})"
            for s in (one.neighbours, one.ridge)
        )
        test = full_search(name, [one.name], seeds=seeds)
        print(f"| {name} | {one.name} | {shares} | {100 * test:.2f} | {'kept' if one.kept else 'left out'} |")


def print_regrets(
    regrets: Mapping[str, Mapping[str, float]], kept: Mapping[str, Mapping[str, list[str]]]
) -> None:
    print("\n| searched | mean regret | " + " | ".join(SETS) + " |\n" + "|---" * (2 + len(SETS)) + "|")
    for way, by_set in regrets.items():
        cells = " | ".join(f"{by_set[name]:+.2f} ({' '.join(kept[name][way])})" for name in SETS)
        print(f"| {way} | {statistics.fmean(by_set.values()):+.2f} | {cells} |")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks backbones", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="keeps decoded photos and features [a temporary one]")
    flags = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        judged = {name: judge_set(name, flags.folder or Path(scratch)) for name in SETS}
    print("| set | backbone | 10 nearest | ridge | test accuracy of its full search | |")
    print("|---" * 6 + "|")
    for name in SETS:
        print_judged(name, judged[name], seeds=flags.seeds)
    kept = {name: choices(judged[name]) for name in SETS}
    tests = {
        name: {way: full_search(name, found, seeds=flags.seeds) for way, found in kept[name].items()}
        for name in SETS
    }
    regrets = {
        way: {name: 100 * (tests[name]["all"] - tests[name][way]) for name in SETS} for way in kept[SETS[0]]
    }
    print_regrets(regrets, kept)
    values = {name: [one.as_values() for one in judged[name]] for name in SETS}
    print(json.dumps({"benchmark": "backbones", "judged": values, "regret": regrets}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
