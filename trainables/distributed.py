"""The same trial on several workers: a Tune function that leads a Ray Train run of the same epochs."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

WORKER_SHARE = 0.9
"""Of its CPUs, what a worker reserves: the rest is room for the functions that lead trials (a thousandth of a
core each), wherever Ray starts them. On two nodes of one core each a trial of two workers would hang else."""


def distributed_trial(config: dict[str, Any]) -> None:
    """Train the one study trial of a lease on `workers` processes; rank 0's reports reach the search.

    A worker's error ends all of them; it is reported as the trial's outcome.
    """
    settings, lease = config["settings"], config["leases"][0]
    name = f"trial-{lease['trial']}-attempt-{lease['attempt']}"
    storage = Path(settings["study_directory"]) / "train"
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if settings["use_gpu"] else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=settings["workers"],
            use_gpu=settings["use_gpu"],
            resources_per_worker=worker_resources(settings),
        ),
        run_config=train.RunConfig(name=name, storage_path=str(storage), callbacks=[TuneReportCallback()]),
    )
    try:
        trainer.fit()
    except (train.TrainingFailedError, ray.exceptions.RayError) as error:
        tune.report({"reports": [failure_report(lease, error)]})


def worker_resources(settings: Mapping[str, Any]) -> dict[str, float]:
    """What one worker reserves: a little less than it takes, for the leading process."""
    cpus = settings["cpus_per_worker"] * WORKER_SHARE
    gpus = {"GPU": settings["gpus_per_worker"]} if settings["gpus_per_worker"] else {}
    return {"CPU": cpus} | gpus


def failure_report(lease: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    """The outcome of a trial whose workers failed, with the reason read off the first cause."""
    text = "".join(traceback.format_exception(error))
    reasons = {"Diverged": "diverged", "OutOfMemoryError": "out of memory", "MemoryError": "out of memory"}
    reason = next((reason for name, reason in reasons.items() if name in text), "bug")
    return {
        "trial": lease["trial"],
        "attempt": lease["attempt"],
        "epoch": lease["done_epochs"],
        "metrics": {},
        "outcome": "failed",
        "reason": reason,
        "traceback": text,
    }


def train_on_worker(config: dict[str, Any]) -> None:
    """One worker's share of the lease's trials; every worker reports, rank 0's content counts."""
    import torch
    from torch import Tensor, distributed
    from torch.nn.parallel import DistributedDataParallel

    from trainables.lease import start_lease
    from trainables.training.team import Team

    def reduce(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        return DistributedDataParallel(module)

    context = train.get_context()
    team = Team(rank=context.get_world_rank(), size=context.get_world_size(), reduce=reduce, wrap=wrap)
    for run in start_lease(config, team=team):
        while not run.finished:
            train.report({"reports": run.advance()})
