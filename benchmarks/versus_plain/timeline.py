"""When things happened in one of our searches: its clock, and the figures that follow from the records."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.inputs import Images, distinct_views
from benchmarks.versus_plain.measured_trial import LADDER, PREFIX
from benchmarks.versus_plain.spans import add_up
from cluster.search.search import Search
from cluster.study.directory import Study
from cluster.study.records import EpochRecord

METRIC = "val_accuracy"
SAME_STEP_SECONDS = 0.01
"""Reports of one worker that arrive closer together came from one step of a group of trials."""


@dataclass(kw_only=True)
class Clock:
    """Unix times, as the records' arrivals are."""

    slots: int
    begin: float = field(default_factory=time.time)
    decoded: float = 0.0
    starting: float = 0.0
    """Ray begins to start; `started`: it has."""
    started: float = 0.0
    ended: float = 0.0

    def since_begin(self, moment: float) -> float:
        """Seconds of work until then, less Ray's own start."""
        return moment - self.begin - (self.started - self.starting)


def summarise(
    search: Search, study: Study, clock: Clock, *, images: Images, epochs: int, until: float
) -> dict[str, Any]:
    """Seconds, each trial's last accuracy as the plain script reports it, and where the time went."""
    records = study.records.load()
    rows = sorted((row for record in records for row in record.epochs.values()), key=lambda row: row.arrival)
    if not rows:
        raise RuntimeError("no trial reported anything")
    configs = {record.number: search.trials[record.number].config for record in records}
    accuracies = {row.trial: row.metrics[METRIC] for row in sorted(rows, key=lambda row: row.epoch)}
    outcomes = {record.number: search.trials[record.number].outcome for record in records}
    reports = [(round(clock.since_begin(row.arrival), 3), row.metrics[METRIC]) for row in rows]
    spans, cache, workers = read_workers(study.directory / "spans")
    last = rows[-1].arrival
    by_worker = group_by_worker(rows, {n: trial.worker for n, trial in search.trials.items()})
    window = clock.slots * (last - clock.started)
    seconds = {
        "seconds": clock.since_begin(last),
        "decode_seconds": clock.decoded - clock.begin,
        "ray_start_seconds": clock.started - clock.starting,
        "first_report_seconds": clock.since_begin(rows[0].arrival),
        "closing_seconds": clock.ended - last,
        "busy_seconds": sum(row.metrics["epoch_seconds"] for row in rows),
        "orchestration_seconds_a_trial": gap_seconds(by_worker) / len(records),
        "worker_start_seconds": sum(first["setup_at"] - clock.started for first in workers),
        "window_seconds": window,
    }
    seconds["floor_seconds"] = floor_seconds(
        spans, list(configs.values()), images, epochs=epochs, slots=clock.slots
    ) + (clock.decoded - clock.begin)
    reached = next((moment for moment, accuracy in reports if accuracy >= until), None)
    return {name: round(value, 3) for name, value in seconds.items()} | {
        "reached_seconds": reached,
        "slots": clock.slots,
        "num_workers": len(workers),
        "cache": cache,
        "workers": spans,
        "trials": [
            {**configs[number], "val_accuracy": accuracies.get(number), "outcome": outcomes[number]}
            for number in sorted(configs)
        ],
        "reports": reports,
    }


def read_workers(folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, float], list[dict[str, Any]]]:
    """Spans and cache counters of all workers together, and what each left."""
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
    """Seconds in which workers that had begun computed no epoch: leases, reports, building, writing.

    A worker's first step is left out: it imports.
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
    """Each distinct piece of work done once, at the speed measured here, on all slots, without a pause."""

    def seconds(name: str) -> float:
        return spans.get(name, {}).get("seconds", 0.0)

    by_depth, views = distinct_views([dict(config) for config in configs], images, epochs=epochs)
    work = seconds("training suffix and head") + seconds("validating suffix and head")
    # One pass that gives several depths need be made once for each view, and then none of a single depth.
    alone = {f"{PREFIX}depth {depth}": distinct for depth, distinct in by_depth.items()}
    for name, distinct in ({LADDER: views} if LADDER in spans else alone).items():
        rows = spans.get(name, {}).get("rows", 0)
        work += seconds(name) * min(1.0, distinct / rows) if rows else 0.0
    made = spans.get("augmenting", {}).get("rows", 0.0)
    making = (seconds("augmenting") + seconds("reading images")) * min(1.0, views / made) if made else 0.0
    return (work + making) / slots
