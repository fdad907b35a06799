"""The connection to Ray: started on this machine or joined; what was opened is closed at the end."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, utils

from cluster.ray_tune.nodes import Node, alive_nodes
from cluster.ray_tune.upload import PROJECT, staged_project
from cluster.study.environment_lines import THREAD_VARIABLES
from cluster.study.job_environment import in_job
from contract.environment import make_private, private_folder, why_not_writable
from contract.files import first_line, is_text, printable
from contract.stop_signals import kept_handlers
from contract.study_layout import CachePaths

logger = logging.getLogger("unfreeze")
OBJECT_STORE_BYTES = 256 * 2**20
"""Small: images and activations are shared through memory-mapped files, not through Ray."""

MOST_RAY_BYTES = 43
"""Most bytes of the path of Ray's folder: a socket's path may have 107, and Ray adds a session's name of 42
and /sockets/plasma_store."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


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
    """Start Ray on this machine, or join the cluster at `address`; an open connection is used as it is.

    Args:
        threads: CPU threads of each worker's arithmetic; more than its CPU cores make all workers slower.
        with_state_server: start Ray's dashboard too (2 s). Ray Train asks it whether a run's leader is dead;
            unanswered, the workers of one that was killed hold their CPUs for ever.

    Raises:
        ValueError: nobody answers at `address`.
    """
    if ray.is_initialized():
        yield Session(nodes=alive_nodes(), local=address is None)
        return
    if not all(is_text(word) for word in sys.argv):  # Ray passes the command line on as UTF-8
        utils.get_entrypoint_name = lambda: printable(" ".join(sys.argv))
    environment = _worker_environment(threads)
    with kept_handlers():
        if address is None:
            _prepare_environment(environment, cache_dir)
            _start(cpus=cpus, gpus=gpus, dashboard=with_state_server)
        else:
            _join(address, environment, cache_dir=cache_dir)
    try:
        yield Session(nodes=alive_nodes(), local=address is None)
    finally:
        with kept_handlers():
            ray.shutdown()


def _prepare_environment(environment: dict[str, str], cache_dir: Path | None) -> None:
    # Workers inherit the environment. A runtime_env would do the same at the price of cold worker processes.
    os.environ |= environment | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    # Ray would listen on all of the machine's addresses. This is its own setting for staying on loopback; the
    # constant is for this process, which has read the setting already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Workers at Ray's niceness of 15 starve beside the processes that decode images.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) and cache_dir is not None:
        # Some containers forbid bytecode; then each worker compiles torch and timm anew (14 s, not 5).
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(CachePaths(cache_dir).bytecode))


def _start(*, cpus: int | None, gpus: int | None, dashboard: bool) -> None:
    # ray.init mostly waits for its own processes, so importing meanwhile saves 0.9 s.
    importer = threading.Thread(target=importlib.import_module, args=("ray.tune",))
    importer.start()
    folder = find_ray_folder()
    try:
        ray.init(
            "local",  # without it Ray joins whatever cluster was started here, and refuses num_cpus
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except Exception as error:  # Ray raises a bare one if its processes do not start; told in one line
        place = Path(folder or usual_ray_folder()).parent
        free = shutil.disk_usage(place).free // 10**6
        raise RuntimeError(
            f"Ray could not start here: {first_line(error)}; its files lie in {place}, which has {free} MB "
            "free: RAY_TMPDIR names another folder"
        ) from error
    finally:
        importer.join()


def find_ray_folder() -> str | None:
    """Find the folder of Ray's sockets and logs; None for Ray's own choice, where that can be used.

    Ray takes $RAY_TMPDIR or $TMPDIR as it is, and fails if it is long or belongs to another user.

    Raises:
        ValueError: there is none; the message names what to set.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    named = os.environ.get(variable, "")
    usual = usual_ray_folder()
    why = _why_unfit(usual)
    if not why:  # Ray would take an empty name, and a relative one, for a folder in its own
        return None if Path(named).is_absolute() or not variable else str(usual)
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), *map(Path, SHORT_FOLDERS))):
        folder = private_folder(parent) / "ray"
        if not _why_unfit(folder):
            make_private(folder.parent)
            logger.warning("Ray's files lie in %s: %s%s", folder, why, variable and f" (by {variable})")
            return str(folder)
    raise ValueError(f"Ray has no folder for its files ({why}): set RAY_TMPDIR to a short path of yours")


def usual_ray_folder() -> Path:
    """Folder of Ray's files by the environment."""
    named = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", ""))
    return Path(named or "/tmp").absolute() / "ray"


def _why_unfit(folder: Path) -> str:
    if len(os.fsencode(folder)) > MOST_RAY_BYTES:
        return f"{folder} is too long for a socket's path"
    if not folder.parent.exists() and folder.parent.name != private_folder().name:
        return f"{folder.parent} does not exist"
    if why := why_not_writable(folder):
        return why
    mark = folder / "ray_current_cluster"  # each session of Ray writes it
    return f"{mark} belongs to another user" if mark.exists() and not os.access(mark, os.W_OK) else ""


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
