"""Measures a simulated search: the driver's CPU by part and its memory, MLflow's lag, and the slots' use."""

from __future__ import annotations

import functools
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from analysis.reading import connect, load_study
from analysis.tracking.runs import EPOCHS_TAG, TRIAL_TAG
from cluster.search.search import Search
from cluster.study.records import Records, TrialRecord
from contract.sqlite_files import read_only_uri
from contract.study_layout import StudyPaths

TRACKING_THREAD = "mlflow-view"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The driver at one moment."""

    seconds: float
    """Time since the monitor began."""

    trials: int
    epochs: int
    cpu_seconds: float
    main_thread_seconds: float
    """CPU seconds of the thread that runs Tune's loop and the search."""

    tracking_seconds: float
    """CPU seconds of the thread, or of the process, that writes MLflow."""

    memory_mb: float
    lag_seconds: float
    """Age of the oldest recorded epoch that MLflow lacks."""


class RunMonitor:
    """A context manager around a search, entered in the thread that runs it, that takes samples."""

    def __init__(
        self,
        search: Search,
        records: Records,
        directory: Path,
        *,
        every_seconds: float,
        tracking_pid: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Time the calls of the search from now on.

        Args:
            tracking_pid: gives the number of the process that writes MLflow, if a process does.
        """
        self.samples: list[Sample] = []
        self.calls: dict[str, list[float]] = {}
        """Wall seconds of every call of a timed function, by its name."""
        self.own_cpu: dict[str, float] = {}
        """CPU seconds in each timed function, without those in timed functions that it calls."""

        self._inner = [0.0]
        """CPU seconds of the timed calls that ended in each timed call that runs, the outermost first."""
        self._search, self._directory, self._every = search, directory, every_seconds
        self._tracking_pid = tracking_pid
        self._ended = threading.Event()
        self._main_thread = threading.get_native_id()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._time_calls(records, "record")
        self._time_calls(search._proposals, "ask")
        self._time_calls(search, "next_lease")
        self._time_calls(search, "receive")

    def __enter__(self) -> RunMonitor:
        self._began, self._cpu_before = time.monotonic(), time.thread_time()
        self._all_cpu_before = time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._main_thread_seconds = time.thread_time() - self._cpu_before
        self._ended.set()
        self._thread.join()

    def summarise_calls(self) -> dict[str, dict[str, float]]:
        """Return by function the number of calls, their mean, median and 99th percentile in milliseconds."""
        return {name: _summarise(seconds) for name, seconds in self.calls.items() if seconds}

    def split_cpu(self) -> dict[str, float]:
        """Split the CPU seconds of the search's thread into its parts; "tune" is what is left: Ray Tune."""
        parts = {
            "database": self.own_cpu["record"],
            "sampler": self.own_cpu["ask"],
            "search": self.own_cpu["next_lease"] + self.own_cpu["receive"],
        }
        return parts | {"tune": self._main_thread_seconds - sum(parts.values())}

    def as_rows(self) -> list[dict[str, float]]:
        return [{name: round(value, 2) for name, value in asdict(s).items()} for s in self.samples]

    def _time_calls(self, target: object, name: str) -> None:
        call: Callable[..., Any] = getattr(target, name)
        seconds = self.calls.setdefault(name, [])
        self.own_cpu[name] = 0.0

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            self._inner.append(0.0)
            try:
                return call(*args, **kwargs)
            finally:
                spent = time.thread_time() - cpu
                self.own_cpu[name] += spent - self._inner.pop()
                self._inner[-1] += spent
                seconds.append(time.perf_counter() - began)

        setattr(target, name, timed)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._every)
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        process = psutil.Process()
        by_thread = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        return Sample(
            seconds=time.monotonic() - self._began,
            trials=len(self._search.trials),
            epochs=len(self.calls["receive"]),
            cpu_seconds=time.process_time() - self._all_cpu_before,
            main_thread_seconds=by_thread.get(self._main_thread, 0.0),
            tracking_seconds=find_tracking_cpu(self._tracking_pid(), by_thread),
            memory_mb=process.memory_info().rss / 2**20,
            lag_seconds=find_lag(self._directory),
        )


def find_tracking_cpu(pid: int | None, by_thread: Mapping[int, float]) -> float:
    """Return the CPU seconds of the process that writes MLflow, or of the thread where there is none."""
    try:
        if pid is not None:
            cpu = psutil.Process(pid).cpu_times()
            return cpu.user + cpu.system
    except psutil.NoSuchProcess:
        return 0.0
    writing = (thread.native_id for thread in threading.enumerate() if thread.name == TRACKING_THREAD)
    return by_thread.get(next(writing, None) or -1, 0.0)


def find_lag(directory: Path) -> float:
    """Return the age in seconds of the oldest epoch that is in the study database and not in MLflow."""
    with connect(load_study(directory)) as (connection, study_id):
        query = text("SELECT trial, epoch, arrival FROM epochs WHERE study_id = :id")
        rows = connection.execute(query, {"id": study_id}).all()
    written = _read_written(StudyPaths(directory).tracking_database)
    missing = [arrival for trial, epoch, arrival in rows if epoch > written.get(trial, 0)]
    return max(0.0, time.time() - min(missing)) if missing else 0.0


def _read_written(path: Path) -> dict[int, int]:
    """Count the epochs that MLflow has of each trial, by trial number."""
    if not path.exists():
        return {}
    query = (
        "SELECT a.value, b.value FROM tags a JOIN tags b ON a.run_uuid = b.run_uuid "
        "WHERE a.key = ? AND b.key = ?"
    )
    with sqlite3.connect(read_only_uri(path), uri=True, timeout=10) as database:
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
        "median_ms": round(1000 * statistics.median(ordered), 2),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


@dataclass(frozen=True, kw_only=True)
class Busy:
    """One epoch of a simulated trial."""

    process: int
    trial: int
    began: float
    seconds: float
    """Planned length; what the worker slept longer counts as waiting."""

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """Return the slots' busy share, from when all were busy until the last trial was handed out."""

    share: float
    """Busy time over slot time."""

    workers: int
    """Processes that ran epochs: more than slots if some were thrown away, fewer if some never came up."""

    window_seconds: float
    ramp_up_seconds: float
    results_a_second: float

    between_epochs: tuple[float, float, float]
    """Median, 95th and 99th percentile of the seconds from an epoch's end to the same trial's next epoch."""

    between_trials: tuple[float, float, float]
    """The same from a trial's end to the next trial's first epoch on the same worker."""


def find_utilisation(records: Sequence[TrialRecord], *, slots: int, began: float) -> Utilisation:
    """Return the slots' busy share from the times in each epoch's metrics; `began` is a Unix time."""
    epochs = list(_epochs(records))
    first: dict[int, float] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.began):
        first.setdefault(epoch.process, epoch.began)
    start = sorted(first.values())[:slots][-1]
    end = max(record.attrs["attempt_started"] for record in records)
    window = max(end - start, 1e-9)
    busy = sum(max(0.0, min(epoch.ended, end) - max(epoch.began, start)) for epoch in epochs)
    same, other = _find_gaps([epoch for epoch in epochs if start <= epoch.began <= end])
    return Utilisation(
        share=busy / (window * slots),
        workers=len(first),
        window_seconds=window,
        results_a_second=sum(start <= epoch.ended <= end for epoch in epochs) / window,
        ramp_up_seconds=start - began,
        between_epochs=_quantiles(same),
        between_trials=_quantiles(other),
    )


def _epochs(records: Iterable[TrialRecord]) -> Iterable[Busy]:
    for record in records:
        for row in record.epochs.values():
            yield Busy(
                process=int(row.metrics["process"]),
                trial=row.trial,
                began=row.metrics["began"],
                seconds=row.metrics["epoch_seconds"],
            )


def _find_gaps(epochs: Iterable[Busy]) -> tuple[list[float], list[float]]:
    same: list[float] = []
    other: list[float] = []
    before: dict[int, Busy] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.began):
        last = before.get(epoch.process)
        if last is not None:
            (same if last.trial == epoch.trial else other).append(epoch.began - last.ended)
        before[epoch.process] = epoch
    return same, other


def _quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    if not seconds:
        return (0.0, 0.0, 0.0)
    ordered = sorted(seconds)
    high, highest = (ordered[int(share * (len(ordered) - 1))] for share in (0.95, 0.99))
    return (statistics.median(ordered), high, highest)
