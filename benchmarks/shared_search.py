"""A fixed list of trials on our engine: the other side of plain_ray_tune.py, from the same input files.

    python -m benchmarks.shared_search --trials trials.json --images images.json --image-size 128 --epochs 4

Every trial is a prior trial of the study, and none is stopped early. The last line printed is one line of
JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.progress import Progress
from cluster.resources import check_resources
from cluster.run import run_search
from cluster.schedulers import load_scheduler
from cluster.search import Search
from cluster.searchers import load_searcher
from cluster.session import open_session
from cluster.study import StudyConfig
from cluster.study_directory import Study, open_study
from trainables.config import StudySettings
from trainables.data.datasets import find_images
from trainables.data.manifest import Manifest
from trainables.sharing.preparation import prepare_images

METRIC = "val_accuracy"


def make_config(trial: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a trial of the list, with what the plain script fixes."""
    regime = "linear_probe" if trial["unfreeze_depth"] == 0 else "finetune"
    fixed = {"backbone": "lite0", "regime": regime, "optimizer": "adamw", "schedule": "cosine"}
    return {**fixed, "weight_decay": 0.0, **trial}


def read_images(flags: argparse.Namespace, folder: Path) -> Manifest:
    images = json.loads(flags.images.read_text())
    table = folder / "images.csv"
    with table.open("w", newline="") as file:
        rows = [(path, label, part) for part in ("train", "val") for path, label in images[part]]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    manifest, _ = prepare_images(
        find_images(str(table), cache_dir=flags.cache_dir),
        fits=["crop"],
        image_size=flags.image_size,
        cache_dir=flags.cache_dir,
        budget_gb=flags.cache_gb,
        seed=0,
        refuse_bad=True,
    )
    return manifest


def make_search(study: Study, trials: list[dict[str, Any]], *, epochs: int) -> Search:
    return Search(
        study.records,
        space=lambda _: {},
        priors=[(f"trial {number}", make_config(trial)) for number, trial in enumerate(trials)],
        make_sampler=load_searcher("random"),
        scheduler=load_scheduler("none"),
        num_trials=len(trials),
        seed=0,
        metrics=[METRIC],
        max_epochs=epochs,
    )


def run(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds from the start of decoding to the last result, less Ray's own start; each trial's accuracy."""
    trials = [{"epochs": flags.epochs, **trial} for trial in json.loads(flags.trials.read_text())]
    config = StudyConfig(
        space="benchmark", data=str(flags.images), study="benchmark", runs_dir=folder, concurrent=flags.cpus
    )
    resources = check_resources(config, cpus=flags.cpus, gpus=0)
    begin = time.monotonic()
    manifest = read_images(flags, folder)
    decoded = time.monotonic()
    study = open_study(config, facts={"direction": "maximize", "space_table": [], "data": {}})
    manifest.write_csv(study.directory / "data.csv")
    settings = StudySettings(
        study_directory=str(study.directory),
        classes=manifest.classes,
        weights="auto",
        image_size=flags.image_size,
        seed=0,
        metric=METRIC,
        maximize=True,
        cache_directory=str(flags.cache_dir),
        cache_gigabytes=flags.cache_gb,
        num_trials=len(trials),
        threads=1,
        use_gpu=False,
    )
    search = make_search(study, trials, epochs=flags.epochs)
    starting = time.monotonic()
    from trainables.trial import Trial

    with open_session(cpus=flags.cpus, gpus=0, cache_dir=flags.cache_dir):
        started = time.monotonic()
        with Progress(search, console=Console(stderr=True)) as progress:
            ending = run_search(
                search,
                trainable=Trial,
                settings=asdict(settings),
                resources=resources,
                storage_dir=folder / "ray",
                progress=progress,
            )
        ended = time.monotonic()
    summary = summarise(search, study, trials)
    study.close()
    seconds = {
        "seconds": ended - begin - (started - starting),
        "decode_seconds": decoded - begin,
        "ray_start_seconds": started - starting,
    }
    return {name: round(value, 2) for name, value in seconds.items()} | {"ending": ending.how} | summary


def summarise(search: Search, study: Study, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Each trial with the accuracy of its last epoch, as the plain script reports it."""
    rows = []
    busy = 0.0
    for record in study.records.load():
        last = record.epochs[max(record.epochs)] if record.epochs else None
        accuracy = last.metrics[METRIC] if last else None
        error = search.trials[record.number].outcome
        rows.append({**trials[record.number], "val_accuracy": accuracy, "outcome": error})
        busy += sum(row.metrics["epoch_seconds"] for row in record.epochs.values())
    return {"busy_seconds": round(busy, 2), "trials": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=Path, required=True, help="JSON list of configurations")
    parser.add_argument("--images", type=Path, required=True, help="JSON object of train and val image lists")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="for configurations that say none")
    parser.add_argument("--cpus", type=int, default=2, help="trials at once, one CPU each")
    parser.add_argument("--cache-dir", type=Path, help="keep the cache here [a temporary folder: cold]")
    parser.add_argument("--cache-gb", type=float, default=10.0, help="0 = compute everything anew")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags.cache_dir = (flags.cache_dir or Path(folder) / "cache").absolute()
        summary = run(flags, Path(folder))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
