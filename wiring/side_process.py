"""A process beside this one that imports what a call will need, and then runs it while this one goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

LOOK_SECONDS = 0.5
"""How often the process looks whether the one that started it still lives."""


@dataclass(frozen=True)
class Calls:
    """Calls of a side process, by whoever holds its end of the connection; it can be handed on once."""

    connection: Connection

    def begin(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin a call; the function, its arguments and its result are pickled."""
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


class SideProcess:
    """One process that runs calls in turn; it ends with the process that started it."""

    def __init__(self, modules: Sequence[str] = (), *, threads: int = 1) -> None:
        """Start the process, once these modules are imported.

        They are imported once, by a process from which all side processes are forked: those that the first
        one names.

        Args:
            threads: CPU threads of torch there.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*modules, "wiring.short_end"])
        own, other = context.Pipe()
        self.calls = Calls(own)
        self._process = context.Process(
            target=_serve, args=(other, os.getpid(), threads), name="side process"
        )
        self._process.start()
        other.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.calls.connection.close()


def _serve(connection: Connection, owner: int, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that waits for the results
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
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
    os.kill(os.getpid(), signal.SIGKILL)
