"""Keeps the MLflow view of a study up to date during its search, by a process of its own.

MLflow takes more of Python's time for a result than the search itself, which as a thread it would hold up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import analysis
from analysis.tracking.writer import MAX_PAUSE_SECONDS, logger
from analysis.tracking.writing_process import Call, Followed, Following, Order, Result, Said

PROJECT = Path(analysis.__file__).parents[1]
PROGRAM = "from analysis.tracking.writing_process import main; main()"
MAX_DEATHS = 3
"""How often a process may be ended from outside, one soon after the other, until no other is started."""

LONG_LIVED_SECONDS = 60.0
"""A process that lived for so long is no sign that the next one dies, too."""

ABANDONED_SECONDS = 2.0
"""How long a call waits for a process that has been told to write no further trial."""


DYING_SECONDS = 1.0
"""How long a process may take to end by itself once its connection is closed."""


class Tracker:
    """Copies new records of a study to MLflow. No fault of MLflow or its process stops the search."""

    def __init__(
        self, study_dir: Path, tracking_uri: str | None = None, *, poll_seconds: float = 3.0
    ) -> None:
        self._about = Following(study_dir, tracking_uri, poll_seconds)
        self._finishing, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mlflow-view", daemon=True)
        self._failure: str | None = None
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to follow: the process imports MLflow (1.5 s of CPU) and waits for a recorded epoch."""
        self._thread.start()

    def begin_to_finish(self) -> None:
        """Let what is left be written, and go on; to be called once nothing more is recorded."""
        if not self._finishing.is_set():
            self._finishing.set()
            self._tell(Order.FINISH)

    def finish(self, timeout: float = 30.0) -> bool:
        """Write what is left; false, with a warning, if MLflow lacks something after `timeout` seconds."""
        self.begin_to_finish()
        failure = None
        if self._thread.ident is not None:
            self._thread.join(timeout)
            failure = self._failure
        if self._thread.is_alive():
            self._tell(Order.ABANDON)
            failure = f"not done after {timeout:.0f} s"
        if failure:
            logger.warning(
                "MLflow's view of %s is incomplete: %s; the study itself is whole. To write it: "
                "python -m analysis sync %s",
                self._about.study_dir.name,
                failure,
                self._about.study_dir,
            )
        return failure is None

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function after `finish` where MLflow is imported; in this process if there is no other.

        Raises:
            ValueError: the process still writes, or the function raised there.
            Exception: whatever the function raised here.
        """
        if self._thread.ident is not None:
            self._thread.join(ABANDONED_SECONDS)
        if self._thread.is_alive():
            raise ValueError("another process still writes this study's view")
        if self._connection is None:
            return work(*arguments)
        try:
            self._connection.send(Call(work, arguments))
            result = self._receive(self._connection)
        except (EOFError, OSError):  # it was ended from outside; whoever finds something lacking makes it
            self._end_process()
            return work(*arguments)
        assert isinstance(result, Result)
        if result.failure is not None:
            raise ValueError(result.failure)
        return result.value

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closed.set()
        self._finishing.set()
        with self._starting:
            if self._process is not None:
                self._process.kill()
        if self._thread.ident is not None:
            self._thread.join()
        self._end_process()

    def _watch(self) -> None:
        """Keep a process that writes until the search is over, in place of any that is ended from outside."""
        deaths, pause = 0, self._about.poll_seconds
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                followed = self._receive(self._start_process())
                assert isinstance(followed, Followed)
                self._failure = followed.failure
                return
            except (EOFError, OSError) as error:
                ending = self._end_process() or str(error)
            deaths = deaths + 1 if time.monotonic() - began < LONG_LIVED_SECONDS else 1
            self._failure = f"the process that writes it was ended ({ending})"
            if self._closed.is_set() or deaths == MAX_DEATHS:
                return
            logger.warning("MLflow's process was ended (%s), another one goes on", ending)
            self._finishing.wait(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _start_process(self) -> Connection:
        own, other = Pipe()
        path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        with self._starting, other:
            if self._closed.is_set():
                raise OSError("it is not needed any more")
            # A session of its own: Ctrl-C is for the search, which lets the process end its work. Without -P
            # a file of the user's in the working directory could stand for one of Python's own modules.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(other.fileno())],
                env=os.environ | {"PYTHONPATH": path},
                pass_fds=(other.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._connection = own
            own.send(self._about)
        if self._finishing.is_set():
            self._tell(Order.FINISH)
        return own

    def _receive(self, connection: Connection) -> Followed | Result:
        """The next message but lines of the log, which are logged here.

        Raises:
            EOFError, OSError: the process was ended from outside.
        """
        while isinstance(message := connection.recv(), Said):
            logger.log(message.level, "%s", message.text)
        assert isinstance(message, Followed | Result)
        return message

    def _tell(self, order: Order) -> None:
        with self._starting:
            if self._connection is not None:
                try:
                    self._connection.send(order)
                except OSError:  # it has ended: `_watch` starts another
                    return

    def _end_process(self) -> str:
        """End the process if it lives, and say how it ended; empty if there was none."""
        with self._starting:
            process, self._process, connection, self._connection = self._process, None, self._connection, None
        if process is None or connection is None:
            return ""
        connection.close()
        try:
            code = process.wait(DYING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
