"""Processes beside this one that import what their calls will need, and run them while this one goes on."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from cluster.ray_tune.spare import run_in_spare

LOOK_SECONDS = 0.5
"""How often a side process looks whether the one that started it still lives."""

GARBAGE_AFTER = 50_000
"""Objects between two looks for garbage: torch's exporter makes a million, and a look at all takes 0.2 s."""

START = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from wiring.side_process import serve
serve()
"""
"""Not as multiprocessing starts processes: each would import again what the command's own file imports."""


@dataclass(frozen=True)
class Calls:
    """Calls of a side process, by whoever holds its end of the connection; it can be handed on once."""

    connection: Connection

    def begin(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin a call; the function, its arguments and its result are pickled.

        Several that have begun run in turn, and their results come in that order.
        """
        self.connection.send((work, arguments))

    def result(self) -> Any:
        """Wait for the result of the call that has begun.

        Raises:
            RuntimeError: the process was ended from outside, as for want of memory.
            Exception: whatever the call raised.
        """
        try:
            worked, value = self.connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(
                "a process that this command had started was ended from outside, perhaps for want of memory"
            ) from None
        if not worked:
            raise value
        return value


@dataclass(frozen=True)
class SideProcess:
    """One process that runs calls in turn; it ends with the process that started it."""

    calls: Calls
    process: psutil.Process
    server: subprocess.Popen[bytes] | None
    """Its parent, which ends once all its processes have; None = no child of this process."""

    def close(self) -> None:
        """End the process, whatever it does."""
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
        self.calls.connection.close()


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What the parent of the side processes is told."""

    modules: tuple[str, ...]
    threads: int
    owner: int
    key: bytes
    """By which processes that hand on connections know each other."""


def start_side_processes(
    number: int, modules: Sequence[str] = (), *, threads: int = 1, spare_folder: Path | None = None
) -> list[SideProcess]:
    """Start processes, and return once these modules are imported: once, by a process that then forks.

    Args:
        threads: CPU threads of torch in each.
        spare_folder: where a process may wait that has imported most of them already.

    Raises:
        OSError: they could not start.
    """
    pairs = [multiprocessing.Pipe() for _ in range(number)]
    sockets = tuple(other.fileno() for _, other in pairs)
    order = _Order(
        modules=tuple(modules),
        threads=threads,
        owner=os.getpid(),
        key=bytes(multiprocessing.current_process().authkey),
    )
    is_served = spare_folder is not None and _ask_spare(spare_folder, order, sockets)
    server = None if is_served else _start_server(order, sockets)
    started = []
    for own, other in pairs:
        other.close()
        try:
            process = psutil.Process(own.recv())
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            raise OSError("a side process ended while it started") from None
        started.append(SideProcess(Calls(own), process, server))
    return started


def close_all(processes: Sequence[SideProcess]) -> None:
    """End the processes that were started together, whatever they do."""
    for process in processes:
        process.close()
    for process in processes:
        if process.server is not None:
            process.server.wait()


def _ask_spare(folder: Path, order: _Order, sockets: tuple[int, ...]) -> bool:
    try:
        run_in_spare(folder, serve_order, order, handles=sockets)
    except (OSError, EOFError):  # there is none, or it was ended
        return False
    return True


def _start_server(order: _Order, sockets: tuple[int, ...]) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C is for the one that waits for the results.
    server = subprocess.Popen(
        [sys.executable, "-c", START], stdin=subprocess.PIPE, pass_fds=sockets, process_group=0
    )
    assert server.stdin is not None
    with server.stdin as stdin:
        for value in (sys.path, order, sockets):
            pickle.dump(value, stdin)
    return server


def serve() -> None:
    """Serve the order that comes on standard input."""
    order, sockets = pickle.load(sys.stdin.buffer), pickle.load(sys.stdin.buffer)
    serve_order(order, sockets)


def serve_order(order: _Order, sockets: Sequence[int]) -> None:
    """Import, fork a process for each socket, and wait for their ends."""
    multiprocessing.current_process().authkey = order.key
    for name in order.modules:
        with suppress(ImportError):  # raised by the call that needs it
            importlib.import_module(name)
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    for socket in sockets:
        if os.fork() == 0:
            for other in sockets:
                if other != socket:
                    os.close(other)
            _run_calls(Connection(socket), order)
            _end()
    for socket in sockets:
        os.close(socket)
    for _ in sockets:
        os.wait()
    _end()


def _run_calls(connection: Connection, order: _Order) -> None:
    threading.Thread(target=_end_with, args=(order.owner,), daemon=True).start()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(order.threads)
    connection.send(os.getpid())
    while True:
        try:
            work, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply = (True, work(*arguments))
        except Exception as error:  # raised where the result is waited for
            reply = (False, error)
        try:
            connection.send(reply)
        except (TypeError, AttributeError, ValueError) as error:  # it cannot be pickled
            connection.send((False, RuntimeError(f"{reply[1]!r} ({error})")))


def _end_with(owner: int) -> None:
    """End this process once its owner is gone, which is not its parent: that one lives as long as it does."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_SECONDS)
    _end()


def _end() -> None:
    """End this process without tidying up: it takes a second where torch is loaded, and nothing needs it."""
    os.kill(os.getpid(), signal.SIGKILL)
