"""Runs a server on Ray Serve: replicas of each model, and the ingress in this process.

Serve starts, watches, restarts and chooses among replicas. Requests do not go through its proxy, but from the
ingress straight to a replica: one hop less, and sizes, times and repeats are the ingress's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import uvicorn
from ray import serve
from ray._private import ray_constants
from ray.serve._private import replica as serve_replica

from contract.environment import LOOPBACK
from contract.files import first_line
from contract.machine import count_cpus
from contract.model_card import ModelCard
from contract.stop_signals import SIGNALS, kept_handlers
from serving.server.app import ServedModel, Service, Unavailable, make_app
from serving.server.config import ModelSource, ServerConfig
from serving.server.connections import make_connection_class
from serving.server.replica import ModelReplica, ReplicaSettings

logger = logging.getLogger("unfreeze")
for _library in ("ray.serve", "uvicorn", "python_multipart"):  # what they warn of is told to the client
    logging.getLogger(_library).setLevel(logging.ERROR)
MOST_DEATHS = 5
"""Replicas that may die under one request: if it is its image that kills them, it shall not kill all."""

START_SECONDS = 600.0
"""Seconds in which the replicas of a version must have loaded their model."""

OBJECT_STORE_BYTES = 512 * 2**20


def run_server(config: ServerConfig) -> int:
    """Serve until SIGINT or SIGTERM; the exit code is 0 then, 1 if a model could not be started."""
    listening = _listen(config.host, config.port)
    with listening, ExitStack() as stack:
        stack.enter_context(_ray(config))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unfreeze-serving-"))
        return asyncio.run(_serve(config, listening, Path(folder)))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small packets at once only over a socket whose protocol is named: 40 ms a request.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        return listening
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"cannot listen on {host}:{port} ({reason}): --port names another, 0 a free one"
        ) from None


@contextmanager
def _ray(config: ServerConfig) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster; what was opened is closed at the end."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with kept_handlers():
        if config.address is not None:
            packages = [str(Path(__file__).parents[2] / name) for name in ("contract", "serving")]
            try:
                ray.init(address=config.address, runtime_env={"py_modules": packages}, **quiet)
            except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                raise ValueError(f"no Ray cluster answers at {config.address}: {first_line(error)}") from None
        else:
            _start_ray(config, quiet)
        serve.start(
            proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"}
        )
    try:
        yield
    finally:
        with kept_handlers():
            ray.shutdown()


def _start_ray(config: ServerConfig, quiet: dict[str, Any]) -> None:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    # Ray would listen on all of the machine's addresses. This is its own setting for staying on loopback; the
    # constant is for this process, which has read the setting already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault("RAY_worker_niceness", "0")
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # Each version runs beside its predecessor for a moment, on the same cores.
    cpus = 2 * len(config.sources) * config.replicas * _cpus_per_replica(config) + 1
    try:
        ray.init(
            "local",
            num_cpus=int(cpus) + 1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    except Exception as error:  # Ray raises a bare one if its processes do not start; told in one line
        raise OSError(f"Ray could not start here: {first_line(error)}") from error


def _cpus_per_replica(config: ServerConfig) -> float:
    if config.cpus_per_replica is not None:
        return config.cpus_per_replica
    if config.address is not None:
        return 1.0
    return max(1.0, count_cpus() // (len(config.sources) * config.replicas))


def _gpus_per_replica(config: ServerConfig) -> float:
    if config.gpus_per_replica is not None:
        return config.gpus_per_replica
    num_gpus = ray.cluster_resources().get("GPU", 0.0)
    share = num_gpus / (2 * len(config.sources) * config.replicas)
    return float(int(share)) if share >= 1 else int(share * 1000) / 1000


async def _serve(config: ServerConfig, listening: socket.socket, folder: Path) -> int:
    service = Service(
        names=tuple(source.name for source in config.sources),
        limits=config.limits,
        request_timeout=config.request_timeout,
        most_held=max(8 * config.limits.most_bytes, 256 * 2**20),
        token=config.token,
    )
    deployer = Deployer(config, service, folder)
    service.reload = deployer.reload
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(service),
            http=make_connection_class(config.request_timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
        )
    )
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            loop.add_signal_handler(number, stopping.set)
    server.capture_signals = suppress
    answering = asyncio.create_task(server.serve(sockets=[listening]))
    starting = asyncio.create_task(deployer.start())
    ended = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({answering, starting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not ended.done():
            starting.result()
            print(_describe_ready(config, listening), flush=True)
            await asyncio.wait({answering, ended}, return_when=asyncio.FIRST_COMPLETED)
        return 0
    except RuntimeError as error:
        print(f"serving: {first_line(error)}", file=sys.stderr)
        return 1
    finally:
        starting.cancel()
        server.should_exit = True
        await asyncio.gather(answering, return_exceptions=True)
        if config.address is not None:
            await deployer.remove_all()


def _describe_ready(config: ServerConfig, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    token = "" if config.token is None else " -H 'Authorization: Bearer TOKEN'"
    lines = [
        f"serving {', '.join(source.name for source in config.sources)} at http://{shown}:{port}/",
        f"curl --data-binary @photo.jpg{token} http://{shown}:{port}/predict",
    ]
    if config.token is None and host not in LOOPBACK:
        lines.append("whoever reaches this port may use it: --token asks for one")
    return "\n".join(lines)


@dataclass(eq=False)
class Deployer:
    """Puts versions of models to work, each as a Serve application of its own."""

    config: ServerConfig
    service: Service
    folder: Path
    """Folder with copies of the models: a replica that is started again loads what the others have."""

    applications: dict[str, str] = field(default_factory=dict)
    """Application of the present version by the model's name."""

    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def start(self) -> None:
        """Put all models to work.

        Raises:
            RuntimeError: the replicas of one could not be started.
        """
        await asyncio.gather(*(self._start(source) for source in self.config.sources))

    async def _start(self, source: ModelSource) -> None:
        try:
            await self._deploy(source, *await asyncio.to_thread(source.check))
        except ValueError as error:
            raise RuntimeError(f"model {source.name} could not be started: {error}") from error

    async def reload(self, name: str) -> dict[str, Any]:
        """Serve what the directory of a model holds now; the old version answers until the new one can.

        Raises:
            ValueError: the new version cannot be served.
        """
        source = next(one for one in self.config.sources if one.name == name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            old, old_application = self.service.models[name], self.applications[name]
            card, version = await asyncio.to_thread(source.check)
            if version != old.version:
                await self._deploy(source, card, version)
                await self._retire(old, old_application)
            return {"model": name, "version": version, "was": old.version, "changed": version != old.version}

    async def remove_all(self) -> None:
        """Take the applications off the cluster."""
        for application in self.applications.values():
            with suppress(Exception):  # the cluster may be gone
                await asyncio.to_thread(serve.delete, application)

    async def _deploy(self, source: ModelSource, card: ModelCard, version: str) -> None:
        directory = await asyncio.to_thread(self._copy, source, version)
        application = f"{source.name}-{version}-{secrets.token_hex(3)}"
        handle = await _run_application(
            self._make_deployment(source, version, directory), application, f"version {version}"
        )
        calls = ReplicaCalls(
            handle,
            name=source.name,
            seconds=self.config.answer_timeout,
            on_repeat=lambda: self.service.metrics.count_repeat(source.name),
        )
        self.applications[source.name] = application
        self.service.models[source.name] = ServedModel(
            name=source.name, version=version, format=source.format, card=card, calls=calls
        )

    def _copy(self, source: ModelSource, version: str) -> Path:
        if (
            self.config.address is not None
        ):  # the cluster's nodes see the model's own directory, not this copy
            return source.paths.directory
        copy = self.folder / f"{source.name}-{version}-{secrets.token_hex(3)}"
        shutil.copytree(
            source.paths.directory, copy, ignore=shutil.ignore_patterns("golden", "*.csv", "__pycache__")
        )
        return copy

    def _make_deployment(self, source: ModelSource, version: str, directory: Path) -> Any:
        cpus, gpus = _cpus_per_replica(self.config), _gpus_per_replica(self.config)
        settings = ReplicaSettings(
            directory=str(directory),
            version=version,
            format=source.format,
            device="auto" if gpus else "cpu",
            threads=max(1, int(cpus)),
            most_pixels=self.config.limits.most_pixels,
            most_batch=self.config.most_batch,
        )
        return serve.deployment(
            PrivateReplica,
            name="model",
            num_replicas=self.config.replicas,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            max_ongoing_requests=256,
            max_constructor_retry_count=2,
            graceful_shutdown_timeout_s=5,
            health_check_period_s=2,
            health_check_timeout_s=30,
        ).bind(settings)

    async def _retire(self, old: ServedModel, application: str) -> None:
        while old.num_running:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(serve.delete, application)


class PrivateReplica(ModelReplica):
    """A replica that opens no port to the network.

    Serve starts a gRPC server in each replica, on all of the machine's addresses, which unpickles what
    anybody sends to it. Nobody calls it here: calls come through Ray.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        bind = serve_replica.add_port_to_grpc_server
        serve_replica.add_port_to_grpc_server = lambda server, _: bind(server, "127.0.0.1:0")
        super().__init__(settings)


async def _run_application(target: Any, application: str, what: str) -> Any:
    """Start an application and wait until its replicas run: its handle.

    Raises:
        ValueError: they do not.
    """
    (handle,) = await asyncio.to_thread(
        serve.run_many,
        [serve.RunTarget(target, name=application, route_prefix=None)],
        wait_for_applications_running=False,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = (await asyncio.to_thread(serve.status)).applications[application]
        if found.status == "RUNNING":
            return handle
        if found.status == "DEPLOY_FAILED":
            await asyncio.to_thread(serve.delete, application)
            reasons = [one.message for one in found.deployments.values() if one.message] or [found.message]
            raise ValueError(f"{what} does not start: {_last_line(reasons[0])}")
        await asyncio.sleep(0.1)
    await asyncio.to_thread(serve.delete, application)
    raise ValueError(
        f"{what} does not start in {START_SECONDS:g} s: is there room for it beside the old one?"
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no reason given"
    )


@dataclass(eq=False)
class ReplicaCalls:
    """Calls a model's replicas; where one dies, the call is repeated on another, since it changes nothing."""

    handle: Any
    name: str
    seconds: float
    on_repeat: Callable[[], None]

    async def classify(self, contents: list[bytes], coverage: float) -> dict[str, Any]:
        """Answer for files; see `Calls`."""
        found: dict[str, Any] = await self._call(lambda: self.handle.classify.remote(contents, coverage))
        return found

    async def explain(self, content: bytes, label: str | None) -> dict[str, Any] | str:
        """Tell what the model looked at; see `Calls`."""
        found: dict[str, Any] | str = await self._call(lambda: self.handle.explain.remote(content, label))
        return found

    async def _call(self, send: Callable[[], Awaitable[Any]]) -> Any:
        deaths = 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    try:
                        return await send()
                    except NotImplementedError:
                        raise
                    except REPEATED as error:
                        logger.debug("a replica of %s is gone: %s", self.name, first_line(error))
                        deaths += isinstance(error, ray.exceptions.RayActorError)
                        if deaths > MOST_DEATHS:
                            raise Unavailable(
                                f"{deaths} replicas of {self.name} died under this request"
                            ) from None
                        self.on_repeat()
                        await asyncio.sleep(0.05)
                    except ray.exceptions.RayTaskError as error:
                        logger.error("model %s failed: %s", self.name, error)
                        raise Unavailable(f"model {self.name} failed: {_last_line(str(error))}") from None
        except TimeoutError:
            raise Unavailable(f"no replica of {self.name} answered in {self.seconds:g} s") from None


REPEATED = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.TaskCancelledError,
    serve.exceptions.DeploymentUnavailableError,
    serve.exceptions.ReplicaUnavailableError,
)
"""Errors that say nothing of the request: the replica is gone, or is going."""
