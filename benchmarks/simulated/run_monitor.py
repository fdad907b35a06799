"""Watches a search from inside its process: CPU by thread, memory, seconds a call, and MLflow's lag."""

from __future__ import annotations

import functools
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from analysis.reading import connect, load_study
from analysis.tracking.runs import EPOCHS_TAG, TRIAL_TAG
from cluster.search.search import Search
from cluster.study.records import Records


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How things stood at one moment."""

    seconds: float
    """Since the monitor began."""
    trials: int
    epochs: int
    cpu_seconds: float
    main_thread_seconds: float
    """Of it in the thread that runs Tune's loop and the search."""
    tracking_seconds: float
    """Of it in the thread that writes MLflow."""
    memory_mb: float
    lag_seconds: float
    """Age of the oldest recorded epoch that MLflow lacks."""


class RunMonitor:
    """Context manager around `run_search`, in the thread that calls it."""

    def __init__(self, search: Search, records: Records, directory: Path, *, every_seconds: float) -> None:
        self.samples: list[Sample] = []
        self.calls: dict[str, list[float]] = {}
        """Wall seconds of every call, by name."""
        self._search, self._directory, self._every = search, directory, every_seconds
        self._ended = threading.Event()
        self._main_thread = threading.get_native_id()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._time_calls(records, "record")
        self._time_calls(search, "next_lease")
        self._time_calls(search, "receive")

    def __enter__(self) -> RunMonitor:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def summarise_calls(self) -> dict[str, dict[str, float]]:
        """Of each call: how often, milliseconds on average and at most but one in a hundred."""
        return {name: _summarise(seconds) for name, seconds in self.calls.items() if seconds}

    def as_rows(self) -> list[dict[str, float]]:
        return [{name: round(value, 2) for name, value in asdict(s).items()} for s in self.samples]

    def _time_calls(self, target: object, name: str) -> None:
        call: Callable[..., Any] = getattr(target, name)
        seconds = self.calls.setdefault(name, [])

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - began)

        setattr(target, name, timed)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._every)
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        process = psutil.Process()
        cpu = process.cpu_times()
        by_thread = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        tracking = next((t.native_id for t in threading.enumerate() if t.name == "mlflow-view"), None)
        return Sample(
            seconds=time.monotonic() - self._began,
            trials=len(self._search.trials),
            epochs=len(self.calls["receive"]),
            cpu_seconds=cpu.user + cpu.system,
            main_thread_seconds=by_thread.get(self._main_thread, 0.0),
            tracking_seconds=by_thread.get(tracking or -1, 0.0),
            memory_mb=process.memory_info().rss / 2**20,
            lag_seconds=find_lag(self._directory),
        )


def find_lag(directory: Path) -> float:
    """Seconds since the oldest epoch came that is in the study database and not in MLflow."""
    with connect(load_study(directory)) as (connection, study_id):
        query = text("SELECT trial, epoch, arrival FROM epochs WHERE study_id = :id")
        rows = connection.execute(query, {"id": study_id}).all()
    written = _read_written(directory.parent / "mlflow.db")
    missing = [arrival for trial, epoch, arrival in rows if epoch > written.get(trial, 0)]
    return max(0.0, time.time() - min(missing)) if missing else 0.0


def _read_written(path: Path) -> dict[int, int]:
    """Trial -> epochs that MLflow has of it."""
    if not path.exists():
        return {}
    query = (
        "SELECT a.value, b.value FROM tags a JOIN tags b ON a.run_uuid = b.run_uuid "
        "WHERE a.key = ? AND b.key = ?"
    )
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as database:
        try:
            rows = database.execute(query, (TRIAL_TAG, EPOCHS_TAG)).fetchall()
        except sqlite3.OperationalError:  # its tables are being created
            rows = []
    database.close()
    return {int(trial): int(epochs) for trial, epochs in rows}


def _summarise(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "calls": len(ordered),
        "mean_ms": round(1000 * statistics.fmean(ordered), 2),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2),
    }
