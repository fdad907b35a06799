"""The ingress in a thread of the test's own process, with one replica in it: all of a server but Ray."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from contract.model_card import ModelCard
from contract.model_layout import ModelPaths
from serving.model import Format
from serving.server.app import ServedModel, Service, make_app
from serving.server.bodies import Limits
from serving.server.connections import make_connection_class
from serving.server.replica import ModelReplica, ReplicaSettings


@dataclass(frozen=True)
class Reply:
    """An answer: its status, and its JSON or text."""

    status: int
    value: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class Client:
    """Sends requests to a server on this machine, each over a connection of its own unless told otherwise."""

    port: int

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        kind: str | None = None,
        **headers: str,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            return ask_over(connection, method, path, body, kind, **headers)
        finally:
            connection.close()

    def post(self, path: str, body: Any, kind: str | None = "image/jpeg", **headers: str) -> Reply:
        return self.ask("POST", path, body, kind, **headers)


def ask_over(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any,
    kind: str | None,
    **headers: str,
) -> Reply:
    """Send a request over a connection that stays open."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind is not None:
        given["Content-Type"] = kind
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    content = answer.read()
    plain = {name.lower(): value for name, value in answer.getheaders()}
    is_json = plain.get("content-type", "").startswith("application/json")
    return Reply(answer.status, json.loads(content) if is_json else content.decode(), plain)


def make_service(model: ModelPaths, *, limits: Limits | None = None, **changes: Any) -> Service:
    """Make a service whose one model `tiny` is answered in this process."""
    limits = limits or Limits(most_bytes=2**20, most_images=60, most_pixels=10**6)
    version = model.digest()
    assert version is not None
    replica = ModelReplica(
        ReplicaSettings(
            directory=str(model.directory),
            version=version,
            format=Format.PT2,
            device="cpu",
            threads=1,
            most_pixels=limits.most_pixels,
            most_batch=16,
        )
    )
    served = ServedModel(
        name="tiny", version=version, format="pt2", card=ModelCard.load(model), calls=replica
    )
    settings: dict[str, Any] = {"request_timeout": 10.0, "most_held": 2**26, "models": {"tiny": served}}
    return Service(**{"names": ("tiny",), "limits": limits, **settings, **changes})


@contextmanager
def running(service: Service) -> Iterator[Client]:
    """Run a service on a free port of this machine."""
    # As in serving/server/run.py: with the protocol unnamed, every answer would come 40 ms later.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    connections = make_connection_class(service.request_timeout)
    config = uvicorn.Config(
        make_app(service),
        http=connections,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Client(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
