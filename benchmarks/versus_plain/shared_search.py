"""Our engine on a fixed list of trials, or searching freely: the other side of plain_ray_tune.py.

    python -m benchmarks.versus_plain.shared_search --trials trials.json --images images.json --epochs 4 \\
        --image-size 128
    python -m benchmarks.versus_plain.shared_search --space space.json --until 0.9 --images images.json \\
        --num-trials 32

Every trial of a list is a recipe of the study, so none is stopped early. The last line printed is one line of
JSON. Seconds count from the start of decoding to the last result, less Ray's own start.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.versus_plain.inputs import Images, distinct_views, published_recipes
from benchmarks.versus_plain.measured_trial import (
    PREFIX,
    SEVERAL_DEPTHS,
    MeasuredTrial,
    Spans,
    WithoutActivations,
    WithoutImageStore,
    add_up,
)
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import check_resources
from cluster.ray_tune.run import RunEnding, run_search
from cluster.ray_tune.session import open_session
from cluster.schedulers import load_scheduler
from cluster.search.search import Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.config import StudyConfig
from cluster.study.directory import Study, open_study
from cluster.study.records import EpochRecord
from cluster.study.space_probe import sample_configs
from contract.messages import StudySettings
from contract.trial_config import make_trial_config
from trainables.batch_groups import batch_group, expect_reuse
from trainables.data.datasets import find_images
from trainables.data.manifest import Manifest
from trainables.images.preparation import prepare_images
from trainables.model.backbones import find_backbone
from trainables.model.weights import locate_weights

METRIC = "val_accuracy"

SAME_STEP_SECONDS = 0.01
"""Reports of one worker that arrive closer together came from one step of a group of trials."""

PARTS = {"image store": WithoutImageStore, "activation cache": WithoutActivations}
"""Parts of the engine that a trainable of their own leaves out."""

LEFT_OUT = (*PARTS, "worker reuse", "batched heads")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A search: a list of trials, or a space until a validation accuracy is reached."""

    trials: list[dict[str, Any]]
    space: dict[str, Any] | None
    num_trials: int
    until: float
    epochs: int
    seed: int


def make_config(trial: dict[str, Any]) -> dict[str, Any]:
    """Complete a trial of the list by the hyperparameters that the plain script fixes."""
    regime = "linear_probe" if trial["unfreeze_depth"] == 0 else "finetune"
    fixed = {"backbone": "lite0", "regime": regime, "optimizer": "adamw", "schedule": "cosine"}
    return {**fixed, "weight_decay": 0.0, **trial}


def propose(trial: Any, space: dict[str, Any]) -> dict[str, Any]:
    """Suggest a complete configuration of the space."""
    low, high = space["learning_rate"]
    chosen = {"learning_rate": trial.suggest_float("learning_rate", low, high, log=True)}
    names = [name for name in space if name != "learning_rate"]
    return make_config(chosen | {name: trial.suggest_categorical(name, space[name]) for name in names})


def read_images(flags: argparse.Namespace, folder: Path) -> Manifest:
    images = json.loads(flags.images.read_text(encoding="utf-8"))
    table = folder / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(path, label, split) for split in ("train", "val") for path, label in images[split]]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    manifest, _ = prepare_images(
        find_images(str(table), cache_dir=flags.cache_dir),
        fits=["crop"],
        image_size=flags.image_size,
        cache_dir=flags.cache_dir,
        budget_gb=0.0 if flags.without == "image store" else flags.cache_gb,
        seed=0,
        refuse_bad=True,
    )
    return manifest


def make_search(study: Study, task: Task, *, batched_heads: bool) -> Search:
    """A search over a space is the default one: TPE, ASHA, and the published recipes first."""
    space = task.space
    recipes = task.trials if space is None else published_recipes(space)
    return Search(
        study.records,
        SearchSetup(
            space=lambda trial: {} if space is None else propose(trial, space),
            recipes=[(f"trial {number}", make_config(trial)) for number, trial in enumerate(recipes)],
            make_sampler=load_searcher("random" if space is None else "tpe"),
            scheduler=load_scheduler("none" if space is None else "asha"),
            num_trials=task.num_trials,
            seed=task.seed,
            metrics=[METRIC],
            max_epochs=task.epochs,
            group_of=batch_group if batched_heads else lambda _: None,
        ),
    )


def all_configs(task: Task) -> list[dict[str, Any]]:
    """Return the hyperparameters of the list's trials, or of a random sample of the space."""
    space = task.space
    configs = [make_config(trial) for trial in task.trials]
    if space is not None:
        configs = [dict(config) for config in sample_configs(lambda trial: propose(trial, space))]
    return [asdict(make_trial_config({"max_epochs": task.epochs} | config)) for config in configs]


def make_settings(flags: argparse.Namespace, task: Task, study: Study, classes: Any) -> StudySettings:
    reuse = expect_reuse(all_configs(task))
    return StudySettings(
        study_directory=str(study.directory),
        classes=classes,
        weights="auto",
        backbone_weights=(locate_weights(find_backbone("lite0"), "auto"),),
        image_size=flags.image_size,
        seed=task.seed,
        metric=METRIC,
        maximize=True,
        cache_directory=str(flags.cache_dir),
        cache_gigabytes=flags.cache_gb,
        num_trials=task.num_trials,
        shared_depths=reuse.depths,
        expected_reuse=reuse.share,
        threads=1,
    )


def measure_search(search: Search, study: Study, spans: Spans, *, until: float) -> None:
    """Put stopwatches around the driver's work for a trial, and stop once a report reaches `until`."""
    receive = search.receive

    def receive_until(reports: Any, **named: Any) -> Any:
        reports = list(reports)
        decisions = receive(reports, **named)
        if any(report.metrics.get(METRIC, 0.0) >= until for report in reports):
            search.stop()
        return decisions

    for owner, name, span in (
        (search, "next_lease", "proposing"),
        (search, "lease_ended", "deciding"),
        (study.records, "record", "study database"),
    ):
        setattr(owner, name, spans.timed(span, getattr(owner, name)))
    setattr(search, "receive", spans.timed("deciding", receive_until))  # noqa: B010  (mypy)


def run(flags: argparse.Namespace, task: Task, folder: Path) -> dict[str, Any]:
    """Run one search from the images to the last result; figures of `summarise`, and the driver's spans."""
    config = StudyConfig(
        space="benchmark", data=str(flags.images), study="benchmark", runs_dir=folder, concurrent=flags.cpus
    )
    clock, spans = Clock(slots=check_resources(config, nodes=[(flags.cpus, 0)]).slots or 1), Spans()
    with spans.span("decoding images"):
        manifest = read_images(flags, folder)
    clock.decoded = time.time()
    with spans.span("opening the study"):
        study = open_study(config, facts={"direction": "maximize", "space_table": [], "data": {}})
        manifest.write_csv(study.directory / "data.csv")
        search = make_search(study, task, batched_heads=flags.without != "batched heads")
    measure_search(search, study, spans, until=task.until)
    settings = make_settings(flags, task, study, manifest.classes)
    clock.starting = time.time()
    with open_session(cpus=flags.cpus, gpus=0, cache_dir=flags.cache_dir):
        clock.started = time.time()
        with spans.span("Ray Tune's loop, waiting included"):
            ending = search_with_ray(flags, search, settings, config, folder)
        clock.ended = time.time()
    facts = {"driver": spans.as_dict(), "ending": ending.how if ending.reason is None else ending.reason}
    images = json.loads(flags.images.read_text(encoding="utf-8"))
    summary = summarise(search, study, clock, images=images, epochs=task.epochs, until=task.until)
    study.close()
    return facts | summary


def search_with_ray(
    flags: argparse.Namespace, search: Search, settings: StudySettings, config: StudyConfig, folder: Path
) -> RunEnding:
    with Progress(search, console=Console(stderr=True)) as progress:
        return run_search(
            search,
            trainable=PARTS.get(flags.without, MeasuredTrial),
            settings=settings.as_values(),
            resources=check_resources(config, nodes=[(flags.cpus, 0)]),
            storage_dir=folder / "ray",
            progress=progress,
            reuse_workers=flags.without != "worker reuse",
        )


@dataclass(kw_only=True)
class Clock:
    """Moments of one search in Unix time, as the arrivals in its records."""

    slots: int
    begin: float = field(default_factory=time.time)
    decoded: float = 0.0
    starting: float = 0.0
    """Moment at which Ray begins to start."""

    started: float = 0.0
    """Moment at which Ray has started."""

    ended: float = 0.0

    def since_begin(self, moment: float) -> float:
        """Seconds from `begin` to the moment, less Ray's own start."""
        return moment - self.begin - (self.started - self.starting)


def summarise(
    search: Search, study: Study, clock: Clock, *, images: Images, epochs: int, until: float
) -> dict[str, Any]:
    """Collect seconds, each trial's last accuracy as the plain script reports it, and where the time went."""
    records = study.records.load()
    rows = sorted((row for record in records for row in record.epochs.values()), key=lambda row: row.arrival)
    if not rows:
        raise RuntimeError("no trial reported anything")
    trials = {record.number: search.trials[record.number] for record in records}
    accuracies = {row.trial: row.metrics[METRIC] for row in sorted(rows, key=lambda row: row.epoch)}
    reports = [(round(clock.since_begin(row.arrival), 3), row.metrics[METRIC]) for row in rows]
    spans, cache, workers = read_workers(study.directory / "spans")
    by_worker = group_by_worker(rows, {number: trial.worker for number, trial in trials.items()})
    seconds = find_seconds(clock, rows, setups=[worker["setup_at"] for worker in workers])
    seconds["orchestration_seconds_a_trial"] = gap_seconds(by_worker) / len(records)
    configs = [trial.config for trial in trials.values()]
    floor = floor_seconds(spans, configs, images, epochs=epochs, slots=clock.slots)
    seconds["floor_seconds"] = floor + seconds["decode_seconds"]
    reached = next((moment for moment, accuracy in reports if accuracy >= until), None)
    return {name: round(value, 3) for name, value in seconds.items()} | {
        "reached_seconds": reached,
        "slots": clock.slots,
        "num_workers": len(workers),
        "cache": cache,
        "workers": spans,
        "trials": [
            {**trial.config, "val_accuracy": accuracies.get(number), "outcome": trial.outcome}
            for number, trial in sorted(trials.items())
        ],
        "reports": reports,
    }


def find_seconds(clock: Clock, rows: Sequence[EpochRecord], *, setups: Sequence[float]) -> dict[str, float]:
    """Figures of the clock; `rows` in order of arrival, `setups` the moments at which workers began."""
    first, last = rows[0].arrival, rows[-1].arrival
    return {
        "seconds": clock.since_begin(last),
        "decode_seconds": clock.decoded - clock.begin,
        "ray_start_seconds": clock.started - clock.starting,
        "first_report_seconds": clock.since_begin(first),
        "closing_seconds": clock.ended - last,
        "busy_seconds": sum(row.metrics["epoch_seconds"] for row in rows),
        "worker_start_seconds": sum(moment - clock.started for moment in setups),
        "window_seconds": clock.slots * (last - clock.started),
    }


def read_workers(folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, float], list[dict[str, Any]]]:
    """Spans and cache counters summed over all workers, and the content of each worker's file."""
    left = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    cache: dict[str, float] = defaultdict(float)
    for name, value in ((name, value) for worker in left for name, value in worker["cache"].items()):
        cache[name] += value
    return add_up([worker["spans"] for worker in left]), dict(cache), left


def group_by_worker(
    rows: Iterable[EpochRecord], workers: Mapping[int, str | None]
) -> dict[str | None, list[EpochRecord]]:
    grouped: dict[str | None, list[EpochRecord]] = defaultdict(list)
    for row in rows:
        grouped[workers[row.trial]].append(row)
    return dict(grouped)


def gap_seconds(by_worker: Mapping[str | None, Sequence[EpochRecord]]) -> float:
    """Seconds in which started workers computed no epoch: leases, reports, building, writing.

    Each worker's first step does not count, because it imports.
    """
    gaps = 0.0
    for rows in by_worker.values():
        pairs = list(itertools.pairwise(rows))
        step = next((n for n, (one, other) in enumerate(pairs) if _in_other_step(one, other)), len(pairs))
        gaps += rows[-1].arrival - rows[step].arrival
        gaps -= sum(row.metrics["epoch_seconds"] for row in rows[step + 1 :])
    return max(0.0, gaps)


def _in_other_step(one: EpochRecord, other: EpochRecord) -> bool:
    return other.arrival - one.arrival > SAME_STEP_SECONDS


def floor_seconds(
    spans: Mapping[str, Mapping[str, float]],
    configs: Sequence[Mapping[str, Any]],
    images: Images,
    *,
    epochs: int,
    slots: int,
) -> float:
    """Least possible seconds: each distinct piece of work once, at the measured speed, on all slots."""

    def seconds(name: str) -> float:
        return spans.get(name, {}).get("seconds", 0.0)

    by_depth, views = distinct_views([dict(config) for config in configs], images, epochs=epochs)
    work = seconds("training suffix and head") + seconds("validating suffix and head")
    # A pass that gives several depths is needed once for each view, and makes those of one depth needless.
    alone = {f"{PREFIX}depth {depth}": distinct for depth, distinct in by_depth.items()}
    for name, distinct in ({SEVERAL_DEPTHS: views} if SEVERAL_DEPTHS in spans else alone).items():
        rows = spans.get(name, {}).get("rows", 0)
        work += seconds(name) * min(1.0, distinct / rows) if rows else 0.0
    made = spans.get("augmenting", {}).get("rows", 0.0)
    making = (seconds("augmenting") + seconds("reading images")) * min(1.0, views / made) if made else 0.0
    return (work + making) / slots


def read_task(flags: argparse.Namespace) -> Task:
    trials = [] if flags.trials is None else json.loads(flags.trials.read_text(encoding="utf-8"))
    trials = [{"max_epochs": flags.epochs, **trial} for trial in trials]
    return Task(
        trials=trials,
        space=None if flags.space is None else json.loads(flags.space.read_text(encoding="utf-8")),
        num_trials=len(trials) if flags.space is None else flags.num_trials,
        until=flags.until,
        epochs=flags.epochs,
        seed=flags.seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trials", type=Path, help="JSON list of configurations")
    what.add_argument("--space", type=Path, help="JSON object of choices; learning_rate is a range")
    parser.add_argument("--images", type=Path, required=True, help="JSON object of train and val image lists")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="for configurations that say none")
    parser.add_argument("--num-trials", type=int, default=32, help="of a free search")
    parser.add_argument("--until", type=float, default=2.0, help="stop at this validation accuracy [never]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=2, help="trials at once, one CPU each")
    parser.add_argument("--cache-dir", type=Path, help="keep the cache here [a temporary folder: cold]")
    parser.add_argument("--cache-gb", type=float, default=10.0, help="0 = compute everything anew")
    parser.add_argument("--without", choices=LEFT_OUT, help="leave out a part of the engine")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags.cache_dir = (flags.cache_dir or Path(folder) / "cache").absolute()
        summary = run(flags, read_task(flags), Path(folder))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
