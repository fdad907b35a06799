"""Ray on this machine: it starts in the background, with no more processes than a search has a use for."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.node import Node

from cluster.ray_tune import preloading
from contract.environment import make_private, private_folder, why_not_writable
from contract.files import first_line
from contract.study_layout import CachePaths

logger = logging.getLogger("unfreeze")
OBJECT_STORE_BYTES = 256 * 2**20
"""Small: images and activations are shared through memory-mapped files, not through Ray."""

MOST_RAY_BYTES = 43
"""Most bytes of the path of Ray's folder: a socket's path may have 107, and Ray adds a session's name of 42
and /sockets/plasma_store."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
"""What Ray would start that nothing asks for: the autoscaler's monitor, the copier of logs and the dashboard.
They took half of the CPU time of Ray's start, 2 s, and of its end 1.3 s."""

PRESTARTED = "--num_prestart_python_workers="
"""Argument of Ray's node process: how many worker processes it starts before they are needed."""


class Preload:
    """A module that worker processes import as soon as they start, so that no trial waits for it."""

    def __init__(self, module: str = "", workers: int = 0) -> None:
        """`workers` is the number of processes that start at once."""
        self.workers = workers if module else 0
        self._folder = tempfile.TemporaryDirectory(prefix="unfreeze-preload-")
        self._module = module

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which Ray's workers know what to import, and where to tell that they have."""
        if not self._module:
            return {"RAY_preload_python_modules": ""}
        return {
            "RAY_preload_python_modules": preloading.__name__,
            preloading.MODULE: self._module,
            preloading.FOLDER: self._folder.name,
            preloading.DRIVER: str(os.getpid()),
        }

    @property
    def folder(self) -> Path:
        """Where a spare process of the workers' waits for work, if it could be forked."""
        return Path(self._folder.name)

    def wait(self, seconds: float = 30.0) -> None:
        """Return once all have imported it, or after these seconds: the trials then import it themselves.

        Ray would start further processes for trials that come earlier, and all would import it again.
        """
        deadline = time.monotonic() + seconds
        while (
            sum(one.name.isdigit() for one in self.folder.iterdir()) < self.workers
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)

    def close(self) -> None:
        """Remove the folder in which the workers tell that they are ready."""
        self._folder.cleanup()


class LocalRay:
    """Ray's processes on this machine, from the moment they are asked for until `stop`.

    Linux ends them with the thread that has started them, so that thread waits until they may end.
    """

    def __init__(
        self,
        *,
        cpus: int | None = None,
        gpus: int | None = None,
        environment: Mapping[str, str],
        cache_dir: Path | None = None,
        with_state_server: bool = False,
        preload: Preload | None = None,
    ) -> None:
        """Begin to start Ray; `wait` says when it is there.

        Args:
            environment: variables of the workers.
            with_state_server: start Ray's dashboard too (2 s). Ray Train asks it whether a run's leader is
                dead; unanswered, the workers of one that was killed hold their CPUs for ever.
            preload: what worker processes import when they start; without it none starts before it is needed.
        """
        self._error: BaseException | None = None
        self._is_up, self._may_end = threading.Event(), threading.Event()
        self._preload = preload or Preload()
        _prepare_environment({**environment, **self._preload.environment}, cache_dir)

        def live() -> None:
            try:
                with _prompt_threads():
                    _start(cpus=cpus, gpus=gpus, dashboard=with_state_server, workers=self._preload.workers)
            except BaseException as error:  # raised by `wait`, in the thread that asked for Ray
                self._error = error
            finally:
                self._is_up.set()
            self._may_end.wait()
            shut_down()

        atexit.register(self.stop)  # killed half-way, Ray leaves processes behind
        self._thread = threading.Thread(target=live, name="local Ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once Ray is up and its worker processes have imported what they should.

        Raises:
            RuntimeError: it could not start.
            ValueError: its files have no place.
        """
        self._is_up.wait()
        if self._error is not None:
            raise self._error
        self._preload.wait()

    @property
    def spare_folder(self) -> Path:
        """Folder for `run_in_spare`."""
        return self._preload.folder

    def stop(self) -> None:
        """End Ray's processes, once they have started; nothing if that was done."""
        self._may_end.set()
        self._thread.join()
        self._preload.close()
        atexit.unregister(self.stop)


def shut_down() -> None:
    """End Ray while no thread collects garbage: a reference of Ray's that dies meanwhile ends the process."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


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


def _start(*, cpus: int | None, gpus: int | None, dashboard: bool, workers: int) -> None:
    # Ray says at once that it cannot catch signals in this thread: the command does that itself.
    logging.getLogger("ray").setLevel(logging.ERROR)
    folder = find_ray_folder()
    try:
        with nullcontext() if dashboard else _without_unused_processes(), _idle_workers(workers):
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


@contextmanager
def _prompt_threads() -> Iterator[None]:
    """Let threads take turns more often: Ray's start is many short steps, beside imports that compute."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _without_unused_processes() -> Iterator[None]:
    before = {name: getattr(Node, name) for name in UNUSED}
    for name in UNUSED:
        setattr(Node, name, lambda self, **_: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


@contextmanager
def _idle_workers(number: int) -> Iterator[None]:
    """Let Ray start this many worker processes at once, in place of one for each CPU."""
    begin = services.start_ray_process

    def start_ray_process(command: list[str], *args: Any, **kwargs: Any) -> Any:
        given = [f"{PRESTARTED}{number}" if word.startswith(PRESTARTED) else word for word in command]
        return begin(given, *args, **kwargs)

    services.start_ray_process = start_ray_process
    try:
        yield
    finally:
        services.start_ray_process = begin


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
