"""A process forked from a worker, which has imported torch already: it waits for work that is no trial's."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

import psutil

LOOK_SECONDS = 0.5
"""How often the process looks whether the driver still lives."""


def fork_spare(folder: Path, *, owner: int) -> None:
    """Fork a process that waits in `folder` for its work; nothing if another worker has done so.

    It is no child of this one, since Ray ends a worker's children with it, and shares none of its open files:
    a connection that it kept open would hide this one's death. PyTorch's data loaders fork Ray's workers too.

    Args:
        owner: process id of the driver, with which it ends.
    """
    try:
        (folder / "claimed").touch(exist_ok=False)
    except OSError:
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            _wait_for_work(folder, owner)
    finally:  # without tidying up, which would end the worker's connections
        os.kill(os.getpid(), signal.SIGKILL)


def run_in_spare(
    folder: Path, work: Callable[..., None], *arguments: Any, handles: Sequence[int] = ()
) -> None:
    """Let the process that waits in a folder call `work(*arguments, handles)`, and go on.

    Args:
        handles: open files that are passed on; there they have other numbers.

    Raises:
        OSError: no process waits there.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(folder / "work"))
        with Connection(line.detach()) as connection:
            connection.send((sys.path, len(handles)))
            pid = connection.recv()
            for handle in handles:
                send_handle(connection, handle, pid)
            connection.send((work, arguments))


def _wait_for_work(folder: Path, owner: int) -> None:
    os.setsid()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    with suppress(ImportError):  # else it would look like a worker of Ray's
        from ray._raylet import setproctitle  # type: ignore[attr-defined]

        setproctitle("unfreeze side process")
    driver = psutil.Process(owner)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "work"))
        listener.listen(1)
        listener.settimeout(LOOK_SECONDS)
        while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
            with suppress(TimeoutError):
                line, _ = listener.accept()
                _run(Connection(line.detach()))
                return


def _run(connection: Connection) -> None:
    sys.path[:], number = connection.recv()
    connection.send(os.getpid())
    handles = [recv_handle(connection) for _ in range(number)]
    work, arguments = connection.recv()
    connection.close()
    work(*arguments, handles)
