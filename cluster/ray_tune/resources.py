"""What the machine has, what a trial needs, and so how many trials run at once: known before Ray starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.study.config import StudyConfig

TRAIN_DRIVER_CPUS = 0.001
"""Share of a core for the process that leads a trial of several workers and mostly waits for them; Ray Tune
refuses 0. Each worker takes a tenth less than its CPUs (trainables/distributed.py), so that leading processes
fit beside the workers on whichever nodes they start."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial needs, and how many fit."""

    cpus_per_worker: float
    gpus_per_worker: float | None
    """None as long as nobody has asked the cluster whether it has GPUs."""
    workers_per_trial: int
    slots: int | None
    """Trials at once; None as long as nobody has asked the cluster."""

    @property
    def of_tune_trial(self) -> dict[str, float]:
        """What Ray Tune reserves: the trial itself, or the process that leads its workers."""
        return {"CPU": TRAIN_DRIVER_CPUS} if self.workers_per_trial > 1 else self.of_worker

    @property
    def of_worker(self) -> dict[str, float]:
        """What each process that trains takes."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker} | gpus

    @property
    def threads(self) -> int:
        """Threads of a worker's arithmetic."""
        return max(1, int(self.cpus_per_worker))


def check_resources(
    config: StudyConfig, *, nodes: Sequence[tuple[float, float]], can_grow: bool = False
) -> Resources:
    """How many trials run at once on these nodes.

    Args:
        nodes: CPUs and GPUs of this machine, or of each node of a cluster.
        can_grow: more nodes may come, so that what fits nowhere yet is no mistake.

    Raises:
        ValueError: not even one trial fits.
    """
    per_gpu = config.gpus_per_worker
    if per_gpu is None:
        per_gpu = float(any(gpus > 0 for _, gpus in nodes))
    slots = count_slots(config, per_gpu, nodes)
    if slots == 0 and not can_grow:
        raise ValueError(_describe_lack(config, per_gpu, nodes))
    return Resources(
        cpus_per_worker=config.cpus_per_trial,
        gpus_per_worker=per_gpu,
        workers_per_trial=config.num_workers,
        slots=max(1, slots),
    )


def unasked_resources(config: StudyConfig) -> Resources:
    """What a trial needs on a cluster that has not been asked yet what it has."""
    return Resources(
        cpus_per_worker=config.cpus_per_trial,
        gpus_per_worker=config.gpus_per_worker,
        workers_per_trial=config.num_workers,
        slots=None,
    )


def count_slots(config: StudyConfig, per_gpu: float, nodes: Sequence[tuple[float, float]]) -> int:
    """Trials that fit at once. One process has to fit on a node; the workers of a trial may be on several."""
    places = sum(_places(config.cpus_per_trial, per_gpu, cpus, gpus) for cpus, gpus in nodes)
    limits = (places // config.num_workers, config.concurrent, config.trials)
    return min(limit for limit in limits if limit is not None)


def _places(per_cpu: float, per_gpu: float, cpus: float, gpus: float) -> int:
    """Processes that fit on one node."""
    fitting = cpus / per_cpu
    if per_gpu:
        # A fraction does not cross GPUs: 0.4 fits twice on each, not 2.5 times.
        on_gpus = math.floor(1 / per_gpu + 1e-9) * gpus if per_gpu < 1 else gpus / per_gpu
        fitting = min(fitting, on_gpus)
    return math.floor(fitting + 1e-9)


def _describe_lack(config: StudyConfig, per_gpu: float, nodes: Sequence[tuple[float, float]]) -> str:
    workers = config.num_workers
    scarce = [
        ("GPUs", per_gpu, [gpus for _, gpus in nodes]),
        ("CPUs", config.cpus_per_trial, [c for c, _ in nodes]),
    ]
    kind, each, there = next(
        (one for one in scarce if one[1] and _places(one[1], 0, sum(one[2]), 0) < workers), scarce[1]
    )
    detail = f" ({workers} workers x {each:g})" if workers > 1 else ""
    total = (
        f"there are {sum(there):g}"
        if len(nodes) == 1
        else f"the largest of {len(nodes)} nodes has {max(there):g}"
    )
    if len(nodes) > 1 and workers > 1:
        total = f"the {len(nodes)} nodes have {sum(there):g}"
    grow = "" if len(nodes) == 1 else "; --concurrent N waits for more nodes, on a cluster that can grow"
    return (
        f"a trial needs {workers * each:g} {kind}{detail}, but {total}: {_lower(kind.lower(), workers)}{grow}"
    )


def _lower(kind: str, workers: int) -> str:
    return f"lower --{kind}-per-trial" + (" or --workers-per-trial" if workers > 1 else "")
