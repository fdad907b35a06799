"""A session: the connection to Ray, started here or joined, and at the end closed as far as it was opened."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

OBJECT_STORE_BYTES = 256 * 2**20
"""Small: images and activations are shared through memory-mapped files, not through Ray."""
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the cluster has in all."""

    cpus: float
    gpus: float
    num_nodes: int
    local: bool


@contextmanager
def open_session(
    *,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    threads: int = 1,
    cache_dir: Path | None = None,
    with_state_server: bool = False,
) -> Iterator[Session]:
    """Start Ray on this machine, or join the cluster at `address`; leave a Ray that is already there alone.

    Args:
        threads: of each worker's arithmetic; more than its CPU cores make all workers slower.
        with_state_server: start Ray's dashboard too (2 s). Ray Train asks it whether a run's leader is dead;
            unanswered, the workers of a pruned trial hold their CPUs for ever.

    Raises:
        ValueError: nobody answers at `address`.
    """
    if ray.is_initialized():
        yield _describe(local=address is None)
        return
    environment = _worker_environment(threads)
    if address is None:
        _start(environment, cpus=cpus, gpus=gpus, cache_dir=cache_dir, dashboard=with_state_server)
    else:
        _join(address, environment)
    try:
        yield _describe(local=address is None)
    finally:
        ray.shutdown()


def _start(
    environment: dict[str, str],
    *,
    cpus: int | None,
    gpus: int | None,
    cache_dir: Path | None,
    dashboard: bool,
) -> None:
    # Workers inherit the environment. A runtime_env would do the same at the price of cold worker processes.
    os.environ |= environment | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    # Workers at Ray's niceness of 15 starve beside the processes that decode images.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) and cache_dir is not None:
        # Some containers forbid bytecode; then each worker compiles torch and timm anew (14 s, not 5).
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(cache_dir / "bytecode"))
    # Ray mostly waits for its own processes meanwhile: 0.9 s saved.
    importer = threading.Thread(target=importlib.import_module, args=("ray.tune",))
    importer.start()
    ray.init(
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    importer.join()


def _join(address: str, environment: dict[str, str]) -> None:
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    except (ConnectionError, ray.exceptions.RaySystemError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(f"no Ray cluster answers at --address {address}: {first_line}") from None


def _worker_environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(variables, str(threads)) | {"PYTHONPATH": path}


def _describe(*, local: bool) -> Session:
    total = ray.cluster_resources()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    return Session(cpus=total.get("CPU", 0), gpus=total.get("GPU", 0), num_nodes=alive, local=local)
