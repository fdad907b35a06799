"""The process that writes MLflow beside a search, and the messages between the two.

It follows the study, then runs the calls of the search, for which MLflow is imported here already. It ends
with the search's process, whatever that dies of.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from analysis.tracking.server import silence_mlflow
from analysis.tracking.writer import ViewWriter, logger
from contract.files import first_line

GARBAGE_AFTER = 50_000
"""Objects between two looks for garbage: MLflow's import makes a million that stay, and with Python's own
700 it took 1.7 s of CPU, not 1.3."""


@dataclass(frozen=True)
class Following:
    """The first message to the process: which study it writes, and where to."""

    study_dir: Path
    tracking_uri: str | None
    poll_seconds: float


class Order(Enum):
    """What the process is told about the study that it follows."""

    FINISH = auto()
    """The search is over: write what is left."""
    ABANDON = auto()
    """Write no further trial."""


@dataclass(frozen=True)
class Call:
    """A function that the process runs once it has ended to follow."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Said:
    """A line of the log, for the search to print."""

    level: int
    text: str


@dataclass(frozen=True)
class Followed:
    """The end of following the study."""

    failure: str | None
    """Why MLflow lacks something; None if it does not."""


@dataclass(frozen=True)
class Result:
    """The result of a call, or in a line what it raised: MLflow's own errors cannot all be pickled."""

    value: Any
    failure: str | None = None


class _Teller(logging.Handler):
    """Sends what is logged to the search, which prints it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(Said(record.levelno, record.getMessage()))


def main() -> None:
    """Serve the process that has started this one, by the connection whose descriptor is the argument."""
    gc.set_threshold(GARBAGE_AFTER)
    connection = Connection(int(sys.argv[1]))
    about = connection.recv()
    logger.addHandler(_Teller(connection))
    logger.propagate = False
    writer = ViewWriter(about.study_dir, about.tracking_uri, poll_seconds=about.poll_seconds)
    calls: SimpleQueue[Call] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, writer, calls), daemon=True).start()
    with suppress(Exception):  # said by what needs it
        silence_mlflow()
        importlib.import_module("mlflow.pyfunc")
    connection.send(Followed(writer.follow()))
    while True:
        connection.send(_run(calls.get()))


def _listen(connection: Connection, writer: ViewWriter, calls: SimpleQueue[Call]) -> None:
    """Take messages; once the other end is closed, end this process in the middle of whatever it does."""
    try:
        while True:
            message = connection.recv()
            if message is Order.ABANDON:
                writer.abandoned.set()
            elif message is Order.FINISH:
                writer.finishing.set()
            else:
                calls.put(message)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)


def _run(call: Call) -> Result:
    try:
        return Result(call.work(*call.arguments))
    except Exception as error:  # raised where the result is waited for
        is_ours = isinstance(error, ValueError | OSError)
        return Result(None, first_line(error) if is_ours else f"{type(error).__name__}: {first_line(error)}")
