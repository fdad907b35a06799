"""Several Ray nodes on this machine, whose CPUs are only numbers: as many slots as one likes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.ray_tune.upload import PROJECT

OBJECT_STORE_BYTES = 80 * 2**20
"""Of each node: about the smallest that Ray takes; nothing is put there."""


@contextmanager
def simulated_nodes(num_nodes: int, *, cpus_per_node: int, bytecode: Path) -> Iterator[None]:
    """Start the nodes, connect this process to them, and end them."""
    from ray.cluster_utils import Cluster

    # Before the nodes: their workers inherit it. Without bytecode 64 of them would compile the same imports.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) or sys.dont_write_bytecode:
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(bytecode))
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PROJECT)}
    node = {"num_cpus": cpus_per_node, "num_gpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(num_nodes - 1):
            nodes.add_node(**node)
        # Without a runtime_env, which would leave the workers that each node starts ahead unused.
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()
