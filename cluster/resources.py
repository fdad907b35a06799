"""What the machine has, what a trial needs, and so how many trials run at once: known before Ray starts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.study import StudyConfig

TRAIN_DRIVER_CPUS = 0.1
"""Share of a core for the process that leads a trial of several workers; Ray Tune refuses 0. The workers give
it up together (trainables/distributed.py), since it only waits for them."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial needs, and how many fit."""

    cpus_per_trial: float
    """Of each worker, as are the GPUs."""
    gpus_per_trial: float
    workers_per_trial: int
    slots: int
    """Trials at once."""

    @property
    def of_tune_trial(self) -> dict[str, float]:
        """What Ray Tune reserves: the trial itself, or the process that leads its workers."""
        if self.workers_per_trial > 1:
            return {"CPU": TRAIN_DRIVER_CPUS}
        gpus = {"GPU": self.gpus_per_trial} if self.gpus_per_trial else {}
        return {"CPU": self.cpus_per_trial} | gpus

    @property
    def of_worker(self) -> dict[str, float]:
        """What each process that trains takes."""
        return {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial}

    @property
    def threads(self) -> int:
        """Threads of a worker's arithmetic."""
        return max(1, int(self.cpus_per_trial))


def check_resources(
    config: StudyConfig,
    *,
    cpus: float = 0.0,
    gpus: float = 0.0,
    nodes: Sequence[tuple[float, float]] = (),
    can_grow: bool = False,
) -> Resources:
    """How many trials run at once on so many CPUs and GPUs; infinite before a cluster is joined.

    Args:
        nodes: CPUs and GPUs of each node of a cluster, instead of those of one machine.
        can_grow: more nodes may come, so that what fits nowhere yet is no mistake.

    Raises:
        ValueError: not even one trial fits.
    """
    nodes = nodes or [(cpus, gpus)]
    per_gpu = config.gpus_per_trial
    if per_gpu is None:
        per_gpu = float(any(gpus > 0 for _, gpus in nodes))
    slots = count_slots(config, per_gpu, nodes)
    if slots == 0 and not can_grow:
        raise ValueError(_describe_lack(config, per_gpu, nodes))
    return Resources(
        cpus_per_trial=config.cpus_per_trial,
        gpus_per_trial=per_gpu,
        workers_per_trial=config.workers_per_trial,
        slots=max(1, slots),
    )


def count_slots(config: StudyConfig, per_gpu: float, nodes: Sequence[tuple[float, float]]) -> int:
    """Trials that fit at once. One process has to fit on a node; the workers of a trial may be on several."""
    workers = config.workers_per_trial
    places = sum(_places(config.cpus_per_trial, per_gpu, cpus, gpus) for cpus, gpus in nodes)
    fitting = places if math.isinf(places) else places // workers
    limits = [limit for limit in (fitting, config.concurrent, config.trials) if limit is not None]
    return 1 if math.isinf(min(limits)) else math.floor(min(limits))


def _places(per_cpu: float, per_gpu: float, cpus: float, gpus: float) -> float:
    """Processes that fit on one node."""
    fitting = cpus / per_cpu
    if per_gpu:
        # A fraction does not cross GPUs: 0.4 fits twice on each, not 2.5 times.
        on_gpus = math.floor(1 / per_gpu + 1e-9) * gpus if per_gpu < 1 else gpus / per_gpu
        fitting = min(fitting, on_gpus)
    return fitting if math.isinf(fitting) else math.floor(fitting + 1e-9)


def _describe_lack(config: StudyConfig, per_gpu: float, nodes: Sequence[tuple[float, float]]) -> str:
    workers = config.workers_per_trial
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


def count_cpus() -> int:
    """CPU cores this process may use: its affinity, and the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _container_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def count_gpus() -> int:
    """NVIDIA GPUs this process may use, without the seconds that asking a driver library takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # CUDA stops reading at the first invalid entry, and -1 is the usual way to say none.
        return names.index("-1") if "-1" in names else len([name for name in names if name])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _lower(kind: str, workers: int) -> str:
    return f"lower --{kind}-per-trial" + (" or --workers-per-trial" if workers > 1 else "")


def _container_quota(cgroup: Path) -> float | None:
    try:
        if (cgroup / "cpu.max").exists():
            limit, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        else:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return int(limit) / int(period) if limit.isdigit() and int(limit) > 0 else None
