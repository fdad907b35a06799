"""How many trials run at once on a cluster whose nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from cluster.ray_tune.nodes import alive_nodes
from cluster.ray_tune.resources import Resources, count_slots
from cluster.study.config import StudyConfig

LOOK_SECONDS = 2.0


@contextmanager
def elastic_slots(
    config: StudyConfig, resources: Resources, *, say: Callable[[str], None]
) -> Iterator[Callable[[], int]]:
    """A function that says how many trials fit on the nodes of now.

    With --concurrent a cluster that can grow is asked for as many places, for as long as the search runs; one
    that cannot takes no notice.
    """
    asked = config.concurrent is not None
    if asked:
        _ask_for(resources, num=min(config.concurrent or 1, config.trials or 10**9))
    look = _Look(config, resources)
    if look.fitting() == 0:
        say("no node can take a trial yet: the cluster is asked for more")
    try:
        yield look.count
    finally:
        if asked and ray.is_initialized():
            _ask_for(resources, num=0)


class _Look:
    """The latest look at the cluster, not older than LOOK_SECONDS."""

    def __init__(self, config: StudyConfig, resources: Resources) -> None:
        self._config, self._resources = config, resources
        self._slots, self._looked = resources.slots or 1, time.monotonic()

    def count(self) -> int:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            # Never none: a lease that waits is how a cluster without a free node shows what it lacks.
            self._slots = max(1, self.fitting())
            self._looked = time.monotonic()
        return self._slots

    def fitting(self) -> int:
        nodes = [(node.cpus, node.gpus) for node in alive_nodes()]
        return count_slots(self._config, self._resources.gpus_per_worker or 0.0, nodes)


def _ask_for(resources: Resources, *, num: int) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[resources.of_worker] * (num * resources.workers_per_trial))
