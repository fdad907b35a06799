"""What helps a class of 40 photos: over-sampling, weights, its own augmentation, mixing, or a GAN's images?

    UNFREEZE_DATA=… python -m benchmarks synthetic_images --folder runs/synthetic --seeds 0 1 2

Of the flowers5 photos as benchmarks/quality/splits cuts them, one class is cut to 40 training photos, other
ones for each seed. With every remedy a frozen head is trained, and a network with two stages unfrozen, from
the same first weights; nothing is chosen by validation, and the test photos, which all stay, judge. A GAN is
trained for each seed by `python -m trainables synthesize`. Every row is kept in FOLDER/rows.jsonl, and the
same command goes on after them. The last line printed is one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.predictions import class_scores, count_by_class
from benchmarks.quality.splits import read_splits
from benchmarks.versus_plain.inputs import default_data
from contract.files import plural, write_aside
from contract.messages import LeasedTrial, StudySettings
from contract.study_layout import StudyPaths
from contract.synthetic_images import FILE_NAME, SyntheticImages
from search_spaces import DataFacts, load_space
from trainables.data.datasets import find_images
from trainables.data.manifest import Manifest
from trainables.data.synthetic import SyntheticTable, check_origin, list_synthetic
from trainables.device.process_setup import prepare_processor
from trainables.images.decoding import digest_of
from trainables.images.preparation import prepare_images
from trainables.model.backbones import find_backbone
from trainables.model.weights import fetch_weights, locate_weights
from trainables.run import TrialRun

PHOTOS = "flowers5"
BACKBONE = "lite0"
IMAGE_SIZE = 96

_MIXED = {"sampler": "balanced", "mix_share": 0.5, "mix_within_class": True}
_CUTMIX = {**_MIXED, "mix": "cutmix", "cutmix_min": 0.1, "cutmix_max": 0.5}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "over-sampling": {"sampler": "balanced"},
    "class weights (B10)": {"class_weights": "balanced"},
    "own augmentation (B11)": {"minority_policy": "medium"},
    "GAN (B16)": {"synthetic_share": 1.0},
    "MixUp within a class": {**_MIXED, "mix": "mixup"},
    "CutMix within a class": _CUTMIX,
    "GAN and CutMix within a class": {**_CUTMIX, "synthetic_share": 1.0},
}
"""What each remedy changes; mixing is over-sampled, since alone it leaves a class as rare as it was."""

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "frozen": {},
    "unfrozen": {"regime": "finetune", "unfreeze_depth": 2, "learning_rate": 3e-4, "schedule": "cosine"},
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One trial."""

    network: str
    method: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.network, self.method, self.seed)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial's scores on the test photos."""

    network: str
    method: str
    seed: int
    macro_f1: float
    recall: float
    """Share of the cut class's test photos that are taken for it."""

    accuracy: float
    num_train: int
    """Images of an epoch, synthetic ones and copies included."""

    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.network, self.method, self.seed)


def cut_class(name: str, *, kept: int, seed: int) -> list[tuple[str, str, str]]:
    """The photos as (path, class, split), with `kept` training photos of a class, drawn by the seed.

    Raises:
        ValueError: no such class.
    """
    rows = read_splits(PHOTOS)
    if name not in {label for _, label, _ in rows}:
        raise ValueError(f"--cut {name} is no class: {', '.join(sorted({label for _, label, _ in rows}))}")
    own = [at for at, (_, label, split) in enumerate(rows) if (label, split) == (name, "train")]
    drawn = set(np.random.default_rng(seed).permutation(own)[:kept].tolist())
    return [row for at, row in enumerate(rows) if at in drawn or at not in own]


def write_listing(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write a table of photos for --data."""
    root = default_data().parent / PHOTOS
    with write_aside(path) as part, part.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "label", "split"))
        writer.writerows((root / photo, label, split) for photo, label, split in rows)


def prepare(folder: Path, *, cut: str, kept: int, seed: int) -> tuple[StudySettings, Manifest]:
    """Cut and decode the photos of a seed: settings of a study that validates on the test photos."""
    directory, cache = folder / f"seed-{seed}", folder / "cache"
    directory.mkdir(parents=True, exist_ok=True)
    listing = directory / "photos.csv"
    write_listing(listing, cut_class(cut, kept=kept, seed=seed))
    manifest, _ = prepare_images(
        find_images(str(listing), cache_dir=cache),
        fits=[find_backbone(BACKBONE).fit],
        image_size=IMAGE_SIZE,
        cache_dir=cache,
        budget_gb=20,
        seed=0,
        refuse_bad=True,
    )
    judged = np.where(manifest.splits == "test", "val", np.where(manifest.splits == "val", "other", "train"))
    replace(manifest, splits=judged).write_csv(StudyPaths(directory).manifest)
    settings = StudySettings(
        study_directory=str(directory),
        classes=manifest.classes,
        weights="auto",
        backbone_weights=(fetch_weights(locate_weights(find_backbone(BACKBONE), "auto", seed=0)),),
        image_size=IMAGE_SIZE,
        seed=seed,
        metric="val_macro_f1",
        maximize=True,
        cache_directory=str(cache),
        cache_gigabytes=20,
        num_trials=2 * len(METHODS),
        threads=1,
    )
    return settings, manifest


def synthesize(
    settings: StudySettings, manifest: Manifest, *, flags: argparse.Namespace, num: int
) -> SyntheticImages | None:
    """Train the GAN of a seed, unless its images are there, and add them to the study of the seed.

    Returns:
        What synthetic.json says of the images; None where the training failed.
    """
    directory = settings.paths.directory
    out = directory / "gan"
    if not (out / FILE_NAME).exists():
        command = [sys.executable, "-m", "trainables", "synthesize", "--data", str(directory / "photos.csv")]
        command += ["--classes", flags.cut, "--images", str(num), "--image-size", str(flags.gan_size)]
        command += ["--time-budget", f"{round(60 * flags.gan_minutes)}s", "--mirror", "--keep-collapsed"]
        command += ["--out", str(out), "--cache-dir", settings.cache_directory]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            return None
    listing = list_synthetic(out, settings.classes)
    check_origin(listing, manifest, seed=0)
    digests = tuple(digest_of(path.read_bytes()) for path in listing.paths)
    table = SyntheticTable(paths=listing.paths, labels=listing.labels, digests=digests)
    table.write_csv(settings.paths.synthetic)
    return listing.made


def make_config(work: Work, *, epochs: Mapping[str, int]) -> dict[str, Any]:
    """The recipe of the space `synthetic` for a frozen head, changed by network and remedy."""
    space = load_space("synthetic")
    facts = DataFacts(num_train=1_000, num_classes=5, median_pixels=200 * 200)
    recipes = space.recipes(facts, backbones=(BACKBONE,), max_epochs=epochs[work.network])
    head = next(recipe.config for recipe in recipes if recipe.config["regime"] == "linear_probe")
    config = {**head, **NETWORKS[work.network], **METHODS[work.method]}
    return {"unfreeze_depth": 0, **config, "max_epochs": epochs[work.network]}


def train(work: Work, settings: StudySettings, config: Mapping[str, Any], cut: str) -> Row:
    """Train one trial to its end, and judge it on the test photos."""
    prepare_processor(settings.threads)
    began = time.perf_counter()
    run = TrialRun(LeasedTrial(trial=0, attempt=1, config=config, done_epochs=0), settings)
    while not run.finished:
        run.run_epoch()
    assert run.evaluation is not None
    labels = run.evaluation.labels.numpy()
    predicted = run.evaluation.log_probabilities.argmax(dim=1).numpy()
    _, recall, f1 = class_scores(count_by_class(labels, predicted, len(settings.classes)))
    return Row(
        **asdict(work),
        macro_f1=float(np.nan_to_num(f1).mean()),
        recall=float(recall[settings.classes.index(cut)]),
        accuracy=float((labels == predicted).mean()),
        num_train=len(run.train_labels),
        seconds=round(time.perf_counter() - began, 1),
    )


def run_all(flags: argparse.Namespace, console: Console) -> list[Row]:
    """Run what FOLDER/rows.jsonl lacks, several trials at once."""
    file = flags.folder / "rows.jsonl"
    rows = (
        [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.exists()
        else []
    )
    known = {row.key for row in rows}
    epochs = {"frozen": flags.epochs, "unfrozen": flags.unfrozen_epochs}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(flags.processes, mp_context=context) as pool:
        for seed in flags.seeds:
            lacking = [one for one in list_work(flags, seed) if one.key not in known]
            if not lacking:
                continue
            settings, manifest = prepare(flags.folder, cut=flags.cut, kept=flags.kept, seed=seed)
            if any(METHODS[one.method].get("synthetic_share") for one in lacking):
                num = flags.images or lacking_images(manifest, flags.cut)
                if made := synthesize(settings, manifest, flags=flags, num=num):
                    console.print(f"seed {seed}: images by {made.generator}: {json.dumps(made.quality)}")
                else:
                    console.print(f"seed {seed}: the GAN's training failed, and its rows are left out")
                    lacking = [one for one in lacking if "synthetic_share" not in METHODS[one.method]]
            begun = {
                pool.submit(train, one, settings, make_config(one, epochs=epochs), flags.cut): one
                for one in lacking
            }
            for done in as_completed(begun):
                row = done.result()
                rows.append(row)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(row)) + "\n")
                console.print(
                    f"seed {seed}, {row.network}, {row.method}: macro F1 {row.macro_f1:.4f}, recall of "
                    f"{flags.cut} {row.recall:.4f}, {row.num_train:,} images an epoch, {row.seconds:.0f} s"
                )
    return rows


def list_work(flags: argparse.Namespace, seed: int) -> Iterator[Work]:
    for network in flags.networks:
        for method in flags.methods:
            yield Work(network=network, method=method, seed=seed)


def lacking_images(manifest: Manifest, cut: str) -> int:
    """Images that a class lacks to the mean of the others."""
    counts = Counter(manifest.labels[manifest.indices("train")].tolist())
    own = counts.pop(manifest.classes.index(cut))
    return round(statistics.mean(counts.values())) - own


def print_rows(rows: Sequence[Row], *, flags: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print mean and range over the seeds of each remedy, and its gain over the plain trial of its seed."""
    seeds = sorted({row.seed for row in rows})
    table = Table(
        title=f"{flags.cut} cut to {flags.kept} photos, {plural(len(seeds), 'seed')}, on test photos"
    )
    for column in ("network", "remedy", "macro F1", "gain", f"recall of {flags.cut}", "gain", "s a trial"):
        table.add_column(column)
    found = []
    for network in flags.networks:
        base = {row.seed: row for row in rows if (row.network, row.method) == (network, "plain")}
        for method in flags.methods:
            own = [row for row in rows if (row.network, row.method) == (network, method)]
            if not own:
                continue
            summary: dict[str, Any] = {"network": network, "method": method, "seeds": len(own)}
            for name in ("macro_f1", "recall"):
                values = [getattr(row, name) for row in own]
                gains = [
                    getattr(row, name) - getattr(base[row.seed], name) for row in own if row.seed in base
                ]
                summary[name] = [
                    round(value, 4) for value in (statistics.mean(values), min(values), max(values))
                ]
                summary[f"{name}_gain"] = [round(gain, 4) for gain in gains]
            summary["seconds"] = round(statistics.mean(row.seconds for row in own), 1)
            table.add_row(
                network,
                method,
                *(cell for name in ("macro_f1", "recall") for cell in _cells(summary, name)),
                f"{summary['seconds']:.0f}",
            )
            found.append(summary)
    console.print(table)
    return found


def _cells(summary: Mapping[str, Any], name: str) -> tuple[str, str]:
    mean, low, high = (100 * value for value in summary[name])
    gains = [100 * gain for gain in summary[f"{name}_gain"]]
    gain = f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else ""
    return f"{mean:.1f} ({low:.1f} to {high:.1f})", gain


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks synthetic_images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where rows, images and caches are kept")
    parser.add_argument(
        "--cut", default="rose", metavar="CLASS", help="class with few photos (default: rose)"
    )
    parser.add_argument("--kept", type=int, default=40, metavar="N", help="its training photos (default: 40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--epochs", type=int, default=16, metavar="N", help="of a frozen head (default: 16)")
    parser.add_argument("--unfrozen-epochs", type=int, default=8, metavar="N", help="(default: 8)")
    parser.add_argument(
        "--images", type=int, metavar="N", help="of the GAN [what the class lacks to the others]"
    )
    parser.add_argument("--gan-minutes", type=float, default=10, metavar="X", help="a training (default: 10)")
    parser.add_argument("--gan-size", type=int, default=64, metavar="PX", help="(default: 64)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trials at once (default: 2)")
    flags = parser.parse_args(argv)
    flags.folder = flags.folder.absolute()
    console = Console(highlight=False, markup=False, emoji=False, width=150)
    try:
        rows = run_all(flags, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summaries = print_rows(rows, flags=flags, console=console)
    print(
        json.dumps({"benchmark": "synthetic_images", "cut": flags.cut, "kept": flags.kept, "rows": summaries})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
