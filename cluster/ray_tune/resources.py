"""Decides, before Ray starts, the CPUs and GPUs of a trial and how many trials run at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.study.config import StudyConfig
from contract.machine import find_gpus

TRAIN_DRIVER_CPUS = 0.001
"""Share of a core for the process that leads a trial of several workers and mostly waits for them; Ray Tune
refuses 0. Each worker takes a tenth less than its CPUs (trainables/distributed.py), so that leading processes
fit beside the workers on whichever nodes they start."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one trial, and how many trials run at once."""

    cpus_per_worker: float
    gpus_per_worker: float | None
    """Below 1 several workers share a GPU; None until the cluster has been asked whether it has any."""

    workers_per_trial: int
    slots: int | None
    """Trials at once; None until the cluster has been asked."""

    most_slots: int | None = None
    """Most trials at once by --concurrent and --trials, whatever the nodes have; None = no limit."""

    @property
    def of_tune_trial(self) -> dict[str, float]:
        """Reservation of Ray Tune: the trial itself, or the process that leads its workers."""
        return {"CPU": TRAIN_DRIVER_CPUS} if self.workers_per_trial > 1 else self.of_worker

    @property
    def of_worker(self) -> dict[str, float]:
        """Reservation of Ray for each process that trains."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker} | gpus

    @property
    def threads(self) -> int:
        """Number of CPU threads of a worker's arithmetic."""
        return max(1, int(self.cpus_per_worker))

    def count_slots(self, nodes: Sequence[tuple[float, float]]) -> int:
        """Count the trials that fit at once on nodes of (CPUs, GPUs), those in use included.

        A process has to fit on one node; the workers of a trial may be on several.
        """
        places = sum(
            _places(self.cpus_per_worker, self.gpus_per_worker or 0.0, cpus, gpus) for cpus, gpus in nodes
        )
        fitting = places // self.workers_per_trial
        return fitting if self.most_slots is None else min(fitting, self.most_slots)

    def describe(self) -> str:
        """Say what each trial takes and how many run at once, as far as known without the cluster."""
        gpus = "1 GPU if there are any" if self.gpus_per_worker is None else f"{self.gpus_per_worker:g} GPU"
        at_once = "as many at once as the cluster takes (not asked yet)"
        if self.slots is not None:
            at_once = f"{self.slots} at once"
        return f"{at_once}, each with {self.workers_per_trial} x ({self.cpus_per_worker:g} CPU, {gpus})"


def check_resources(
    config: StudyConfig, *, nodes: Sequence[tuple[float, float]], can_grow: bool = False
) -> Resources:
    """Count the trials that run at once on these nodes.

    Args:
        nodes: CPUs and GPUs of this machine, or of each node of a cluster.
        can_grow: more nodes may come, so that what fits nowhere yet is no mistake.

    Raises:
        ValueError: not even one trial fits.
    """
    needs = unasked_resources(config)
    if needs.gpus_per_worker is None:
        needs = replace(needs, gpus_per_worker=float(any(gpus > 0 for _, gpus in nodes)))
    slots = needs.count_slots(nodes)
    if slots == 0 and not can_grow:
        raise ValueError(_describe_lack(needs, nodes))
    return replace(needs, slots=max(1, slots))


def unasked_resources(config: StudyConfig) -> Resources:
    """Choose a trial's resources on a cluster whose nodes are not known yet."""
    limits = [limit for limit in (config.concurrent, config.trials) if limit is not None]
    return Resources(
        cpus_per_worker=config.cpus_per_trial,
        gpus_per_worker=config.gpus_per_worker,
        workers_per_trial=config.num_workers,
        slots=None,
        most_slots=min(limits, default=None),
    )


def describe_unused_gpus(config: StudyConfig) -> str:
    """Say in one line which GPU of this machine trials will not use; empty if there is nothing to say."""
    if config.address is not None or config.gpus_per_trial == 0:
        return ""
    return find_gpus().unused


def check_workers(config: StudyConfig, *, num_val: int, batch_sizes: Sequence[int] = ()) -> None:
    """Check that the workers of one trial can share out its images.

    Raises:
        ValueError: a batch cannot be cut into equal parts, or some worker would get no validation image.
    """
    workers = config.num_workers
    flag = "--gpus-per-trial" if config.workers_per_trial is None else "--workers-per-trial"
    torn = [size for size in batch_sizes if size % workers]
    if torn:
        common = math.gcd(*batch_sizes)
        fitting = [str(num) for num in range(1, common + 1) if common % num == 0]
        raise ValueError(
            f"{flag} {workers}: batch_size {', '.join(map(str, torn))} of --space {config.space} does not "
            f"divide by {workers}; pass one of {', '.join(fitting)}"
        )
    if workers > num_val:
        raise ValueError(
            f"{flag} {workers}: there are only {num_val} validation images, and each worker needs one; "
            "pass a smaller number, or more images"
        )


def _places(cpus_each: float, gpus_each: float, cpus: float, gpus: float) -> int:
    """Count the processes that fit on one node."""
    fitting = cpus / cpus_each
    if gpus_each:
        # A fraction does not cross GPUs: 0.4 fits twice on each, not 2.5 times.
        on_gpus = math.floor(1 / gpus_each + 1e-9) * gpus if gpus_each < 1 else gpus / gpus_each
        fitting = min(fitting, on_gpus)
    return math.floor(fitting + 1e-9)


def _describe_lack(needs: Resources, nodes: Sequence[tuple[float, float]]) -> str:
    """Say in one line what is scarce, how much of it there is, and which flag to lower."""
    workers = needs.workers_per_trial
    scarce = [
        ("GPUs", needs.gpus_per_worker or 0.0, [gpus for _, gpus in nodes]),
        ("CPUs", needs.cpus_per_worker, [cpus for cpus, _ in nodes]),
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
