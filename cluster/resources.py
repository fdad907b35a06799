"""What the machine has, what a trial needs, and so how many trials run at once: known before Ray starts."""

from __future__ import annotations

import math
import os
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
    def threads(self) -> int:
        """Threads of a worker's arithmetic."""
        return max(1, int(self.cpus_per_trial))


def check_resources(config: StudyConfig, *, cpus: float, gpus: float) -> Resources:
    """How many trials run at once on so many CPUs and GPUs; infinite before a cluster is joined.

    Raises:
        ValueError: not even one trial fits.
    """
    per_gpu = config.gpus_per_trial if config.gpus_per_trial is not None else float(gpus > 0)
    workers = config.workers_per_trial
    needed_cpus = workers * config.cpus_per_trial
    needed_gpus = workers * per_gpu
    each = f" ({workers} workers x {{}})" if workers > 1 else ""
    if needed_gpus > gpus:
        detail = each.format(f"{per_gpu:g}")
        raise ValueError(
            f"a trial needs {needed_gpus:g} GPUs{detail}, but there are {gpus:g}: {_lower('gpus', workers)}"
        )
    if needed_cpus > cpus:
        detail = each.format(f"{config.cpus_per_trial:g}")
        raise ValueError(
            f"a trial needs {needed_cpus:g} CPUs{detail}, but there are {cpus:g}: {_lower('cpus', workers)}"
        )
    fitting = cpus / needed_cpus
    if needed_gpus:
        fitting = min(fitting, _fit_on_gpus(per_gpu, workers, gpus))
    limits = [limit for limit in (fitting, config.concurrent, config.trials) if limit]
    slots = 1 if math.isinf(min(limits)) else math.floor(min(limits) + 1e-9)
    return Resources(
        cpus_per_trial=config.cpus_per_trial, gpus_per_trial=per_gpu, workers_per_trial=workers, slots=slots
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


def _fit_on_gpus(per_gpu: float, workers: int, gpus: float) -> float:
    """A fraction does not cross GPUs: 0.4 fits twice on each, not 2.5 times."""
    places = math.floor(1 / per_gpu + 1e-9) * gpus if per_gpu < 1 else gpus // per_gpu
    return places // workers


def _container_quota(cgroup: Path) -> float | None:
    try:
        if (cgroup / "cpu.max").exists():
            limit, period = (cgroup / "cpu.max").read_text().split()
        else:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    return int(limit) / int(period) if limit.isdigit() and int(limit) > 0 else None
