"""Begins to start Ray as soon as a plan stands, so that it is up when the images are read."""

from __future__ import annotations

from cluster.ray_tune.local_ray import LocalRay, Preload
from cluster.ray_tune.session import start_ray
from contract.machine import count_cpus, count_gpus
from contract.study_layout import is_study
from wiring.plan import Plan


def start_ray_early(plan: Plan) -> LocalRay | None:
    """Begin to start Ray on this machine for a new study; None where a cluster runs it, or nothing might.

    A study that exists may be finished, or refuse the flags.
    """
    config, resources = plan.config, plan.resources
    if config.address or is_study(config.directory):
        return None
    return start_ray(
        cpus=count_cpus(),
        gpus=count_gpus(),
        threads=resources.threads,
        cache_dir=config.cache_dir,
        with_state_server=config.num_workers > 1,
        preload=Preload("trainables.preload", workers=(resources.slots or 1) * config.num_workers),
    )
