"""Real studies on the photo sets, and how good their models are on test photos no study has seen.

`python -m benchmarks.quality.real FOLDER` runs tune.py for every method, set and seed, one after the other; a
stopped run goes on where it was. It prints the test accuracy of each model handed over, the seconds from the
first trial's start to the last one's end, and what a paired bootstrap over sets and seeds says of the
differences.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.record import prepare
from benchmarks.quality.rows import IMAGE_SIZE, MAX_EPOCHS, SPACE
from benchmarks.quality.splits import SETS, read_splits
from benchmarks.versus_plain.inputs import default_data
from cluster.study.records import Records
from contract.files import save_json, write_aside
from contract.messages import StudySettings
from contract.study_layout import StudyPaths
from contract.trial_config import make_trial_config
from trainables.activations.shared import load_splits
from trainables.assembly import make_view
from trainables.model.backbones import find_backbone

METHODS: Mapping[str, tuple[str, ...]] = {
    "recipes": (),
    "before": ("--searcher", "tpe", "--scheduler", "asha", "--probes", "0"),
    "now": ("--searcher", "guided", "--scheduler", "evidence"),
}
"""Flags of each method. Recipes alone are a study of two trials: the first two of the others."""
RECIPES = 2
DRAWS = 10_000
"""Draws of the bootstrap."""
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Result:
    """One study."""

    photos: str
    seed: int
    method: str
    trials: int
    test_accuracy: float
    val_accuracy: float
    trial: int
    """The trial handed over."""

    seconds: float
    """From the first trial's start to the last one's end."""

    wall_seconds: float
    """Of the whole command, with the start of Ray, report and export."""


def run_study(
    folder: Path, *, photos: str, seed: int, method: str, trials: int, checkout: Path = Path()
) -> Result:
    """Run one study, unless its result is there, and look at its model; `checkout` holds tune.py."""
    name = f"{photos}-{seed}-{method}-{trials}"
    result_file = folder / "results" / f"{name}.json"
    if result_file.exists():
        return Result(**json.loads(result_file.read_text(encoding="utf-8")))
    command = [sys.executable, "tune.py", "--space", SPACE, "--data", str(write_listing(folder, photos))]
    cache = folder / "cache"  # each study fills its own
    command += ["--study", name, "--runs-dir", str(folder / "runs"), "--cache-dir", str(cache)]
    command += ["--image-size", str(IMAGE_SIZE), "--max-epochs", str(MAX_EPOCHS), "--seed", str(seed)]
    command += ["--trials", str(RECIPES if method == "recipes" else trials), *METHODS[method]]
    began = time.perf_counter()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=checkout)
    wall = time.perf_counter() - began
    shutil.rmtree(cache)
    paths = StudyPaths(folder / "runs" / name)
    card = json.loads(paths.model.card.read_text(encoding="utf-8"))
    url = f"sqlite:///{paths.database}"
    records = Records(url, study=name, directions=["maximize"], metric="val_accuracy", new=False)
    history, probes = records.load(), records.load_probes()
    records.close()
    epochs = [row for one in history for row in one.epochs.values()]
    begins = [row.arrival - row.metrics["epoch_seconds"] for row in epochs]
    begins += [probe.arrival - probe.seconds for probe in probes]
    ends = [one.attrs["ended"] for one in history]
    config = history[card["trial"]].attrs["config"]
    result = Result(
        photos=photos,
        seed=seed,
        method=method,
        trials=trials,
        test_accuracy=test_accuracy(folder, photos, paths, config),
        val_accuracy=card["metrics"]["val_accuracy"],
        trial=card["trial"],
        seconds=round(max(ends) - min(begins), 1),
        wall_seconds=round(wall, 1),
    )
    result_file.parent.mkdir(exist_ok=True)
    save_json(result_file, asdict(result))
    return result


def write_listing(folder: Path, photos: str) -> Path:
    """List training and validation photos of a set; test photos are no part of a study."""
    path = folder / f"{photos}.csv"
    root = default_data().parent / photos
    with write_aside(path) as part, part.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "label", "split"))
        for one, label, split in read_splits(photos):
            if split != "test":
                writer.writerow((root / one, label, split))
    return path


@cache
def test_settings(folder: Path, photos: str) -> StudySettings:
    """Settings in which a set's test photos are the validation split."""
    return prepare(photos, folder / "test photos", judged=["test"])


def test_accuracy(folder: Path, photos: str, paths: StudyPaths, config: Mapping[str, object]) -> float:
    """Share of the set's test photos that a study's exported program classifies right."""
    settings, trial = test_settings(folder, photos), make_trial_config(config)
    fit = find_backbone(trial.backbone).fit
    split = load_splits(settings, fit, torch.device("cpu"))["val"]
    view = make_view(trial, settings, fit=fit, is_train=False)
    program = torch.export.load(paths.model.program).module()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(split), BATCH):
            positions = np.arange(start, min(start + BATCH, len(split)))
            images = view.images(split, positions, epoch=0, device=torch.device("cpu"))
            right += int((program(images).argmax(dim=1) == split.labels[positions]).sum())
    return right / len(split)


def compare(results: Sequence[Result], method: str, against: str) -> None:
    """Print the gain of a method over another, paired by set and seed, with a bootstrap over both."""
    found = {(one.photos, one.seed, one.method): one for one in results}
    pairs = [key for key in found if key[2] == method and (*key[:2], against) in found]
    if not pairs:
        return
    gains: dict[str, list[float]] = {}
    ratios = []
    for photos, seed, _ in pairs:
        new, old = found[photos, seed, method], found[photos, seed, against]
        gains.setdefault(photos, []).append(100 * (new.test_accuracy - old.test_accuracy))
        ratios.append(new.seconds / old.seconds)
    by_set = [np.array(values) for values in gains.values()]
    mean = float(np.mean([values.mean() for values in by_set]))
    low, high = np.quantile(bootstrap(by_set), (0.025, 0.975))
    sets = ", ".join(f"{name} {np.mean(values):+.2f}" for name, values in gains.items())
    print(
        f"{method} - {against}: {mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), {len(pairs)} "
        f"pairs; {sets}; seconds x {np.exp(np.mean(np.log(ratios))):.2f} (median {np.median(ratios):.2f})"
    )


def bootstrap(by_set: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Means of drawn sets, each the mean of its drawn seeds."""
    dice = np.random.default_rng(0)
    sets = dice.integers(len(by_set), size=(DRAWS, len(by_set)))
    return np.array(
        [np.mean([dice.choice(by_set[at], len(by_set[at])).mean() for at in drawn]) for drawn in sets]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.real", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--before", type=Path, default=Path(), help="checkout that runs the method 'before'")
    flags = parser.parse_args(argv)
    flags.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in flags.seeds:
        for photos in flags.sets:
            for method in flags.methods:
                one = run_study(
                    flags.folder.absolute(),
                    photos=photos,
                    seed=seed,
                    method=method,
                    trials=flags.trials,
                    checkout=flags.before if method == "before" else Path(),
                )
                results.append(one)
                print(
                    f"{photos}, seed {seed}, {method}: trial {one.trial}, validation {one.val_accuracy:.4f}, "
                    f"test {one.test_accuracy:.4f}, {one.seconds:.0f} s ({one.wall_seconds:.0f} s in all)",
                    flush=True,
                )
    compare(results, "now", "recipes")
    compare(results, "before", "recipes")
    compare(results, "now", "before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
