"""Records the table: `python -m benchmarks.quality.record FOLDER` trains every row on every photo set.

Validation and test photos are handed in together as validation, without early stopping, and each photo's
predicted class and loss are kept for every epoch; `pack` cuts the two apart afterwards. Several processes may
work on one folder at once, a stopped one goes on where it was, and rows that are in the table are left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.quality.rows import BACKBONES, IMAGE_SIZE, Row, make_rows
from benchmarks.quality.splits import SETS, read_splits
from benchmarks.quality.table import FOLDER, load_table, table_file
from benchmarks.versus_plain.inputs import default_data
from contract.files import save_json, write_aside
from contract.messages import LeasedTrial, StudySettings
from trainables.data.datasets import find_images
from trainables.device.process_setup import prepare_processor
from trainables.images.preparation import prepare_images
from trainables.model.backbones import find_backbone
from trainables.model.weights import fetch_weights, locate_weights
from trainables.run import TrialRun

BLOCK = 12
"""Rows that a process takes at once."""
REPETITIONS = 3
SEED_STRIDE = 100_000
"""Added to a row's number for each repetition: a trial's seed follows from its number."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Some rows of one set, trained with one seed."""

    photos: str
    rows: range
    repetition: int

    def file(self, folder: Path) -> Path:
        return folder / "recorded" / f"{self.photos}-{self.rows.start:04}-{self.repetition}.npz"

    def untrained(self) -> list[Row]:
        """Its rows that have this repetition and are not in the table."""
        known = recorded(self.photos)
        rows = (make_rows()[number] for number in self.rows)
        return [
            row
            for row in rows
            if (row.number, self.repetition) not in known and (self.repetition == 0 or row.is_repeated)
        ]


def list_work() -> Iterator[Work]:
    """All work, by repetition and row: whatever is recorded so far is a smaller table of all sets."""
    for repetition in range(REPETITIONS):
        for first in range(0, len(make_rows()), BLOCK):
            rows = range(first, min(first + BLOCK, len(make_rows())))
            for name in SETS:
                yield Work(photos=name, rows=rows, repetition=repetition)


def write_listing(path: Path, name: str, *, judged: Sequence[str]) -> None:
    """List a set's training photos, and those of some other splits as validation."""
    root = default_data().parent / name
    with write_aside(path) as part, part.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "label", "split"))
        for photo, label, split in read_splits(name):
            if split == "train" or split in judged:
                writer.writerow((root / photo, label, "train" if split == "train" else "val"))


def prepare(name: str, folder: Path, *, judged: Sequence[str] = ("val", "test")) -> StudySettings:
    """Cut and decode a set's photos; the settings are those of a study of them, on one thread.

    Args:
        judged: splits whose photos are handed in as validation.
    """
    directory, cache = folder / name, folder / "cache"
    directory.mkdir(parents=True, exist_ok=True)
    listing_file = directory / "listing.csv"
    write_listing(listing_file, name, judged=judged)
    listing = find_images(str(listing_file), cache_dir=cache)
    manifest, _ = prepare_images(
        listing, fits=["crop"], image_size=IMAGE_SIZE, cache_dir=cache, budget_gb=100, seed=0, refuse_bad=True
    )
    manifest.write_csv(directory / "data.csv")
    weights = (locate_weights(find_backbone(backbone), "auto", seed=0) for backbone in BACKBONES)
    return StudySettings(
        study_directory=str(directory),
        classes=manifest.classes,
        weights="auto",
        backbone_weights=tuple(fetch_weights(source) for source in weights),
        image_size=IMAGE_SIZE,
        seed=0,
        metric="val_accuracy",
        maximize=True,
        cache_directory=str(cache),
        cache_gigabytes=100,
        num_trials=len(make_rows()),
        shared_depths=(0, 1, 2, 3, 4),
        expected_reuse=0.2,
        threads=1,
    )


def train(work: Work, settings: StudySettings) -> dict[str, np.ndarray]:
    """Train the rows: predicted classes and losses [rows, epochs, photos], CPU seconds [rows, epochs]."""
    chosen = work.untrained()
    predictions, losses, seconds = [], [], []
    photos: np.ndarray = np.array([], dtype=np.int64)
    for row in chosen:
        leased = LeasedTrial(
            trial=row.number + SEED_STRIDE * work.repetition, attempt=1, config=row.config, done_epochs=0
        )
        began = time.process_time()
        run = TrialRun(leased, settings)
        photos = run.splits["val"].ids[run.validated]
        curve = []
        while not run.finished:
            run.run_epoch()
            assert run.evaluation is not None
            curve.append(run.evaluation)
            seconds.append(time.process_time() - began)
            began = time.process_time()
        predictions.append(
            [epoch.log_probabilities.argmax(dim=1).numpy().astype(np.uint8) for epoch in curve]
        )
        losses.append(
            [
                -epoch.log_probabilities.gather(1, epoch.labels[:, None])[:, 0].numpy().astype(np.float16)
                for epoch in curve
            ]
        )
    return {
        "rows": np.array([row.number for row in chosen], dtype=np.int64),
        "photos": photos,
        "predictions": np.array(predictions),
        "losses": np.array(losses),
        "seconds": np.array(seconds).reshape(len(chosen), -1),
    }


def time_passes(folder: Path) -> dict[str, list[float]]:
    """CPU seconds of the frozen part's pass over the views of each epoch, by "set backbone policy".

    The pass is what an epoch of a frozen head takes longer on an empty cache than on a filled one.
    """
    passes: dict[str, list[float]] = {}
    config = make_rows()[0].config
    for name in SETS:
        settings = prepare(name, folder)
        for backbone in BACKBONES:
            for policy in ("none", "light"):
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    (Path(cache) / "images").symlink_to(folder / "cache" / "images")
                    one = replace(settings, cache_directory=cache, shared_depths=())
                    leased = LeasedTrial(
                        trial=0,
                        attempt=1,
                        config={**config, "backbone": backbone, "policy": policy},
                        done_epochs=0,
                    )
                    run, seconds = TrialRun(leased, one), []
                    while not run.finished:
                        began = time.process_time()
                        run.run_epoch()
                        seconds.append(time.process_time() - began)
                head = 0.05  # what training the head takes is in the table
                passes[f"{name} {backbone} {policy}"] = [round(max(0.0, s - head), 2) for s in seconds]
                print(f"{name} {backbone} {policy}: {sum(seconds):.1f} s", flush=True)
    return passes


@cache
def recorded(name: str) -> set[tuple[int, int]]:
    """Rows that the table has already, each with its repetition."""
    if not table_file(name).exists():
        return set()
    table = load_table(name)
    return set(zip(table.rows.tolist(), table.repetitions.tolist(), strict=True))


def claim(path: Path) -> bool:
    """Take a piece of work, unless another process has it or it is done; a lost process's claim is stale."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path.with_suffix(".claim"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.record", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--anew", action="store_true", help="forget the claims of processes that were ended")
    parser.add_argument("--passes", action="store_true", help="only time the frozen parts' passes")
    flags = parser.parse_args(argv)
    if flags.anew:
        for stale in (flags.folder / "recorded").glob("*.claim"):
            stale.unlink()
    prepare_processor(1)
    if flags.passes:
        save_json(FOLDER / "passes.json", time_passes(flags.folder))
        return 0
    settings: dict[str, StudySettings] = {}
    work = [one for one in list_work() if one.untrained()]
    for number, one in enumerate(work, start=1):
        path = one.file(flags.folder)
        if not claim(path):
            continue
        if one.photos not in settings:
            settings[one.photos] = prepare(one.photos, flags.folder)
        arrays = train(one, settings[one.photos])
        with write_aside(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        print(f"{number} of {len(work)}: {path.name}, {arrays['seconds'].sum():.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
