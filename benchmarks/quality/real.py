"""Real studies on the photo sets, and how good their models are on test photos no study has seen.

`python -m benchmarks.quality.real FOLDER --before CHECKOUT` runs tune.py of both checkouts for every set and
seed, one after the other; a stopped run goes on where it was. It prints the test accuracy of each model
handed over, the seconds from the first trial's start to the last one's end, and what a paired bootstrap over
sets and seeds says of the differences.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.answer.record import load_answer
from benchmarks.quality.record import prepare, write_listing
from benchmarks.quality.rows import BACKBONES, IMAGE_SIZE, MAX_EPOCHS, SPACE
from benchmarks.quality.splits import SETS
from cluster.study.records import Records, TrialRecord
from contract.answer import Combination, MemberRef
from contract.files import save_json
from contract.messages import StudySettings
from contract.metrics import tie_break
from contract.sqlite_files import sqlite_url
from contract.study_layout import StudyPaths
from contract.trial_config import make_trial_config
from trainables.activations.shared import load_splits
from trainables.assembly import make_view
from trainables.export.ensemble import load_combination
from trainables.export.parity import predict
from trainables.model.backbones import find_backbone

METHODS = ("before", "now")
"""Today's default in another checkout, and in this one."""
NUM_RECIPES = 2
"""The first trials of every study."""
DRAWS = 10_000
"""Draws of the bootstrap."""


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
    """The trial handed over, or the best one of those that the model combines."""

    rule: str
    """How the model was made of the trials; "" in a version that hands over a single one."""

    single_accuracy: float | None
    """Test accuracy of the best single trial; None if its weights are gone."""

    recipe_accuracy: float | None
    """Test accuracy of the recipe that validation prefers; None if its weights are gone."""

    seconds: float
    """From the first trial's start to the last one's end."""

    wall_seconds: float
    """The whole command took them, with the start of Ray, report and export."""


def run_study(
    folder: Path,
    *,
    photos: str,
    seed: int,
    method: str,
    trials: int,
    backbones: Sequence[str],
    checkout: Path,
) -> Result:
    """Run one study, unless its result is there, and look at its model; `checkout` holds tune.py."""
    name = f"{photos}-{seed}-{method}-{trials}-{len(backbones)}"
    result_file = folder / "results" / f"{name}.json"
    if result_file.exists():
        return Result(**json.loads(result_file.read_text(encoding="utf-8")))
    listing = folder / f"{photos}.csv"
    write_listing(listing, photos, judged=["val"])  # test photos are no part of a study
    command = [sys.executable, "tune.py", "--space", SPACE, "--data", str(listing)]
    cache = folder / "cache"  # each study fills its own
    command += ["--study", name, "--runs-dir", str(folder / "runs"), "--cache-dir", str(cache)]
    command += ["--image-size", str(IMAGE_SIZE), "--max-epochs", str(MAX_EPOCHS), "--seed", str(seed)]
    command += ["--trials", str(trials), "--backbones", *backbones]
    began = time.perf_counter()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=checkout)
    wall = time.perf_counter() - began
    shutil.rmtree(cache)
    paths = StudyPaths(folder / "runs" / name)
    card = json.loads(paths.model.card.read_text(encoding="utf-8"))
    url = sqlite_url(paths.database)
    records = Records(url, study=name, directions=["maximize"], metric="val_accuracy", new=False)
    history, probes = records.load(), records.load_probes()
    records.close()
    epochs = [row for one in history for row in one.epochs.values()]
    begins = [row.arrival - row.metrics["epoch_seconds"] for row in epochs]
    begins += [probe.arrival - probe.seconds for probe in probes]
    ends = [one.attrs["ended"] for one in history]
    recipes = [one for one in history[:NUM_RECIPES] if one.values]
    recipe = min(recipes, key=rank)
    settings = replace(test_settings(folder, photos), seed=seed)
    answer = load_answer(paths)
    best = history[answer.single["number"] if answer is not None else card["trial"]]
    looked_at = {one.number: one for one in (recipe, best)}  # often one and the same
    singles = {number: trained_accuracy(paths, one, settings) for number, one in looked_at.items()}
    result = Result(
        photos=photos,
        seed=seed,
        method=method,
        trials=trials,
        test_accuracy=test_accuracy(settings, best, exported(paths)),
        val_accuracy=card["metrics"]["val_accuracy"],
        trial=best.number,
        rule=answer.rule if answer is not None else "",
        single_accuracy=singles[best.number],
        recipe_accuracy=singles[recipe.number],
        seconds=round(max(ends) - min(begins), 1),
        wall_seconds=round(wall, 1),
    )
    result_file.parent.mkdir(exist_ok=True)
    save_json(result_file, asdict(result))
    return result


def rank(trial: TrialRecord) -> tuple[float, tuple[float, float], int]:
    """Order of complete trials, the best first: by value, then by the loss, as the search has it."""
    assert trial.values is not None
    return -trial.values[0], tie_break(trial.epochs[max(trial.epochs)].metrics), trial.number


@cache
def test_settings(folder: Path, photos: str) -> StudySettings:
    """Settings in which a set's test photos are the validation split."""
    return prepare(photos, folder / "test photos", judged=["test"])


Program = Callable[[Tensor], Tensor]
"""Images [N, 3, S, S] in [0, 1] -> probabilities [N, classes]."""


def exported(paths: StudyPaths) -> Program:
    """The program that the study hands over."""
    program: Program = torch.export.load(paths.model.program).module()
    return program


def trained_accuracy(paths: StudyPaths, trial: TrialRecord, settings: StudySettings) -> float | None:
    """Test accuracy of a trial's own classifier; None if its weights are gone."""
    if not paths.trial(trial.number).weights.exists():
        return None
    ref = MemberRef("trial", trial.number)
    own = replace(settings, study_directory=str(paths.directory))
    program = load_combination(Combination.single(ref), {ref: trial.attrs["config"]}, own)
    return test_accuracy(settings, trial, program)


def test_accuracy(settings: StudySettings, trial: TrialRecord, program: Program) -> float:
    """Share of the test photos that are taken for what they are; `settings` are those of test_settings."""
    config = make_trial_config(trial.attrs["config"])
    fit = settings.fit or find_backbone(config.backbone).fit
    split = load_splits(settings, fit, torch.device("cpu"))["val"]
    view = make_view(config, settings, fit=fit, is_train=False)
    predicted = predict(program, view, split, np.arange(len(split))).argmax(axis=1)
    return float((predicted == split.labels.numpy()).mean())


def compare(results: Sequence[Result]) -> None:
    """Print gains over the best recipe and over the method before, paired by set and seed."""
    found = {(one.photos, one.seed, one.method): one for one in results}
    for method in METHODS:
        own = [one for one in results if one.method == method]
        for name, base in (("best recipe", "recipe_accuracy"), ("best single trial", "single_accuracy")):
            pairs = [(one.photos, one.test_accuracy, getattr(one, base)) for one in own]
            describe(
                f"{method} - {name}", [(photos, new - old) for photos, new, old in pairs if old is not None]
            )
    changed = [
        (one, found[one.photos, one.seed, "before"])
        for one in results
        if one.method == "now" and (one.photos, one.seed, "before") in found
    ]
    describe("now - before", [(new.photos, new.test_accuracy - old.test_accuracy) for new, old in changed])
    ratios = [new.seconds / old.seconds for new, old in changed]
    if ratios:
        in_all = sum(new.seconds for new, _ in changed) / sum(old.seconds for _, old in changed)
        print(
            f"seconds: {in_all:.2f} times in all; ratios {min(ratios):.2f} to {max(ratios):.2f}, median "
            f"{np.median(ratios):.2f}"
        )


def describe(what: str, gains: Sequence[tuple[str, float]]) -> None:
    """Print the mean of gains by set, in points, with its bootstrap interval."""
    by_set: dict[str, list[float]] = {}
    for photos, gain in gains:
        by_set.setdefault(photos, []).append(100 * gain)
    if not by_set:
        return
    groups = [np.array(values) for values in by_set.values()]
    low, high = np.quantile(bootstrap(groups), (0.025, 0.975))
    sets = ", ".join(f"{name} {np.mean(values):+.2f}" for name, values in by_set.items())
    mean = float(np.mean([values.mean() for values in groups]))
    better, worse = (sum(sign * gain > 0 for _, gain in gains) for sign in (1, -1))
    print(
        f"{what}: {mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}), {len(gains)} pairs, {better} "
        f"above and {worse} below; {sets}"
    )


def bootstrap(by_set: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Means of drawn sets, each the mean of its drawn seeds."""
    dice = np.random.default_rng(0)
    sets = dice.integers(len(by_set), size=(DRAWS, len(by_set)))
    return np.array(
        [np.mean([dice.choice(by_set[at], len(by_set[at])).mean() for at in drawn]) for drawn in sets]
    )


def describe_result(one: Result) -> str:
    single, recipe = (
        "gone" if value is None else f"{value:.4f}" for value in (one.single_accuracy, one.recipe_accuracy)
    )
    return (
        f"{one.photos}, seed {one.seed}, {one.method}: {one.rule or 'trial'} of trial {one.trial}, "
        f"validation {one.val_accuracy:.4f}, test {one.test_accuracy:.4f} "
        f"(single {single}, recipe {recipe}), {one.seconds:.0f} s of {one.wall_seconds:.0f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.real", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES[:1], choices=BACKBONES)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the version before")
    flags = parser.parse_args(argv)
    flags.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in flags.seeds:
        for photos in flags.sets:
            for method in METHODS[:: 1 if (seed + SETS.index(photos)) % 2 else -1]:
                one = run_study(
                    flags.folder.absolute(),
                    photos=photos,
                    seed=seed,
                    method=method,
                    trials=flags.trials,
                    backbones=flags.backbones,
                    checkout=flags.before if method == "before" else Path(),
                )
                results.append(one)
                print(describe_result(one), flush=True)
    compare(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
