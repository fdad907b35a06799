"""Writes MLflow beside a simulated search, in a process of its own or, to compare with, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analysis.tracking import Tracker
from analysis.tracking.writer import ViewWriter
from benchmarks.simulated.measurement import TRACKING_THREAD

LONGEST_WAIT_SECONDS = 600.0


@dataclass
class Tracking:
    """What is known of the writing of MLflow."""

    pid: Callable[[], int | None] = lambda: None
    cpu_seconds: float = 0.0
    """Those that it took until MLflow had everything."""

    behind_seconds: float | None = None
    """Seconds after the search at which MLflow had everything; None if it had not."""


@contextmanager
def tracking(directory: Path, how: str) -> Iterator[Tracking]:
    """Write MLflow beside a search, in a process or a thread, and note what it took after the end."""
    if how == "none":
        yield Tracking()
        return
    with _in_process(directory) if how == "process" else _in_thread(directory) as (noted, finish):
        yield noted
        began = time.time()
        if finish():
            noted.behind_seconds = round(time.time() - began, 1)


@contextmanager
def _in_process(directory: Path) -> Iterator[tuple[Tracking, Callable[[], bool]]]:
    tracker = Tracker(directory)
    noted = Tracking(pid=lambda: tracker.pid)

    def finish() -> bool:
        is_complete = tracker.finish(LONGEST_WAIT_SECONDS)
        noted.cpu_seconds = tracker.call(time.process_time)
        return is_complete

    tracker.start()
    try:
        yield noted, finish
    finally:
        tracker.close()


@contextmanager
def _in_thread(directory: Path) -> Iterator[tuple[Tracking, Callable[[], bool]]]:
    writer, noted = ViewWriter(directory), Tracking()

    def follow() -> None:
        writer.follow()
        noted.cpu_seconds = time.thread_time()

    def finish() -> bool:
        writer.finishing.set()
        thread.join(LONGEST_WAIT_SECONDS)
        return not thread.is_alive()

    thread = threading.Thread(target=follow, name=TRACKING_THREAD, daemon=True)
    thread.start()
    yield noted, finish
