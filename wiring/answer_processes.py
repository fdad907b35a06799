"""Makes the answer in two processes beside this one, which import torch while the search still runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from analysis.answer.record import Answer
from cluster.search.search import Search
from contract.machine import count_cpus
from wiring.answers import AnswerMaker
from wiring.side_process import Calls, SideProcess, close_all, start_side_processes

logger = logging.getLogger("unfreeze")

MODULES = (
    "scipy.linalg",
    "trainables.export.frozen_features",
    "trainables.export.latency",
    "trainables.export.program",
    "trainables.export.unknown_program",
    "torch.export",
    "torch._dynamo",
    "wiring.answers",
)
"""What an answer needs and takes seconds to import."""

SECONDS_BEFORE = 30.0
"""Expected seconds until the end of the search at which the processes start: they import for about five."""

LEAST_MEMORY = 4 * 10**9
"""Bytes that must be available: the two processes take about 0.5 GB each."""


class AnswerProcesses:
    """Makes an answer in processes of its own, or in this one where there is no room for others."""

    def __init__(self, *, spare_folder: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            spare_folder: where a process of Ray's workers may wait for such work.
        """
        self._spare_folder = spare_folder
        self._starting: threading.Thread | None = None
        self._maker: SideProcess | None = None
        self._judge: SideProcess | None = None
        self._beginning: threading.Thread | None = None
        self._error: Exception | None = None
        self._is_closed = False
        self._first: tuple[float, int] | None = None

    @property
    def is_making(self) -> bool:
        """Whether an answer has begun that nobody has taken yet."""
        return self._beginning is not None

    def start_when_due(self, search: Search) -> None:
        """Start once the search will probably end soon; to be called whenever a trial has ended."""
        if self._starting is None and self._expect_seconds(search) < SECONDS_BEFORE:
            self._start()

    def begin(self, maker: AnswerMaker) -> None:
        """Begin to make an answer as soon as the processes are up, unless one is being made."""
        self._start()
        starting = self._starting
        if self.is_making or starting is None:
            return

        def begin() -> None:
            starting.join()
            try:
                if self._maker is not None and self._judge is not None:
                    self._maker.calls.begin(_make, maker, self._judge.calls)
            except OSError as error:  # one was ended, or a temporary folder is too deep for a socket's path
                logger.info("the answer is made in this process: %s", error)
                self._end()
                self._maker = self._judge = None
            except Exception as error:  # raised by `make`, which would wait for ever
                self._error = error

        self._beginning = threading.Thread(target=begin, name="answer", daemon=True)
        self._beginning.start()

    def make(self, maker: AnswerMaker, *, meanwhile: Callable[[], None]) -> Answer:
        """Make the answer, or end what has begun, and do something else meanwhile.

        Raises:
            ValueError, RuntimeError, OSError: as AnswerMaker.make; or a process was ended from outside.
        """
        self.begin(maker)
        meanwhile()
        if self._beginning is None:
            return maker.make()
        self._beginning.join()
        self._beginning = None
        if self._error is not None:
            raise self._error
        if self._maker is None or self._judge is None:  # they could not start
            return maker.make()
        answer = self._maker.calls.result()
        assert isinstance(answer, Answer)
        return answer

    def close(self) -> None:
        """End the processes, whatever they do; those that are still starting end once they have."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        close_all([process for process in (self._maker, self._judge) if process is not None])

    def _start(self) -> None:
        """Begin to start the processes, which takes as long as their imports, if there is room for them."""
        has_room = count_cpus() > 1 and psutil.virtual_memory().available > LEAST_MEMORY
        if self._starting is not None or not has_room:
            return
        threads = max(1, count_cpus() // 2)

        def start() -> None:
            try:
                self._maker, self._judge = start_side_processes(
                    2, MODULES, threads=threads, spare_folder=self._spare_folder
                )
            except OSError as error:  # no process more, or a temporary folder too deep for a socket's path
                logger.info("the answer is made in this process: %s", error)
            if self._is_closed:
                self.close()

        self._starting = threading.Thread(target=start, name="answer processes", daemon=True)
        self._starting.start()

    def _expect_seconds(self, search: Search) -> float:
        """Expect the seconds until the search ends, from its speed since its first trial ended."""
        counts, now = search.counts(), time.monotonic()
        ended = sum(number for state, number in counts.items() if state.has_ended)
        if self._first is None:
            self._first = (now, ended)
        began, before = self._first
        budget = search.ends_at - time.time()
        if ended <= before:
            return budget
        return min(budget, (now - began) / (ended - before) * max(0, search.num_trials - ended))


def _make(maker: AnswerMaker, beside: Calls) -> Answer:
    return maker.make(beside)
