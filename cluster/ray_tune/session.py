"""The connection to Ray: started on this machine or joined; what was opened is closed at the end."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import utils

from cluster.ray_tune.local_ray import LocalRay, Preload, shut_down
from cluster.ray_tune.nodes import Node, alive_nodes
from cluster.ray_tune.upload import PROJECT, staged_project
from cluster.study.environment_lines import THREAD_VARIABLES
from cluster.study.job_environment import in_job
from contract.files import is_text, printable
from contract.stop_signals import kept_handlers
from contract.study_layout import CachePaths


@dataclass(frozen=True, kw_only=True)
class Session:
    """The nodes that Ray had when this process connected."""

    nodes: tuple[Node, ...]
    local: bool

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)


def start_ray(
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    threads: int = 1,
    cache_dir: Path | None = None,
    with_state_server: bool = False,
    preload: Preload | None = None,
) -> LocalRay:
    """Begin to start Ray on this machine and return at once; `open_session` takes it when it is needed.

    Args:
        threads: CPU threads of each worker's arithmetic; more than its CPU cores make all workers slower.
        with_state_server, preload: as LocalRay takes them.
    """
    if not all(is_text(word) for word in sys.argv):  # Ray passes the command line on as UTF-8
        utils.get_entrypoint_name = lambda: printable(" ".join(sys.argv))
    return LocalRay(
        cpus=cpus,
        gpus=gpus,
        environment=_worker_environment(threads),
        cache_dir=cache_dir,
        with_state_server=with_state_server,
        preload=preload,
    )


@contextmanager
def open_session(
    *,
    address: str | None = None,
    started: LocalRay | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    threads: int = 1,
    cache_dir: Path | None = None,
    with_state_server: bool = False,
) -> Iterator[Session]:
    """Start Ray on this machine, or join the cluster at `address`; an open connection is used as it is.

    Args:
        started: a Ray of this machine that has begun to start already.
        threads, with_state_server: as `start_ray` takes them.

    Raises:
        ValueError: nobody answers at `address`.
        RuntimeError: Ray cannot start on this machine.
    """
    if address is None and (started is not None or not ray.is_initialized()):
        local = started or start_ray(
            cpus=cpus,
            gpus=gpus,
            threads=threads,
            cache_dir=cache_dir,
            with_state_server=with_state_server,
        )
        try:
            local.wait()
            yield Session(nodes=alive_nodes(), local=True)
        finally:
            local.stop()
        return
    if ray.is_initialized():
        yield Session(nodes=alive_nodes(), local=address is None)
        return
    with kept_handlers():
        _join(address or "", _worker_environment(threads), cache_dir=cache_dir)
    try:
        yield Session(nodes=alive_nodes(), local=False)
    finally:
        with kept_handlers():
            shut_down()


def _join(address: str, environment: dict[str, str], *, cache_dir: Path | None) -> None:
    if os.environ.get("PYTHONDONTWRITEBYTECODE") and cache_dir is not None:
        environment["PYTHONDONTWRITEBYTECODE"] = ""  # see _prepare_environment
        environment["PYTHONPYCACHEPREFIX"] = str(CachePaths(cache_dir).bytecode)
    try:
        with ExitStack() as stack:
            runtime_env: dict[str, Any] = {"env_vars": environment}
            if not in_job():  # a job's code is on every node already
                runtime_env["working_dir"] = str(stack.enter_context(staged_project()))
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env
            )
    except ray.exceptions.AuthenticationError:
        raise ValueError(
            f"the cluster at --address {address} refuses the token: "
            "set RAY_AUTH_TOKEN_PATH to the file with its own"
        ) from None
    except (ConnectionError, ray.exceptions.RaySystemError, ValueError, RuntimeError) as error:
        raise ValueError(_describe_refusal(address, str(error))) from None


def _describe_refusal(address: str, message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()] or ["no reason given"]
    if "Version mismatch" in message:
        found = " ".join(lines).partition("Version mismatch:")[2].strip()
        return f"the cluster at --address {address} has other versions ({found}): install the same on both"
    if "auth" in message.lower() and "token" in message.lower():
        return f"the cluster at --address {address} refuses the token: {lines[0]}"
    return f"no Ray cluster answers at --address {address}: {lines[0]}"


def _worker_environment(threads: int) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    # In a job Ray has unpacked the code in another folder on each node, and puts it on the path itself.
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | ({} if in_job() else {"PYTHONPATH": path})
