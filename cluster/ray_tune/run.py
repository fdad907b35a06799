"""Runs a search, or final trainings, on Ray Tune until they end, are interrupted, or cannot go on."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.error import TuneError
from ray.tune.execution import tune_controller
from ray.tune.execution.class_cache import _ActorClassCache

from cluster.ray_tune.adapters import Bridge, SchedulerAdapter, SearcherAdapter, SearchStopper
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources
from cluster.search.lease_source import LeaseSource
from cluster.study.records import DatabaseGone, TakenOver
from contract.messages import State
from contract.stop_signals import stopping_like_ctrl_c
from contract.study_layout import RunOutcome

LAST_SECONDS = 1.0
"""How long epochs may go on after the time budget; then they end in the middle, as in a killed run."""


@dataclass(frozen=True, kw_only=True)
class RunEnding:
    """End of one run of a study, with a reason in one line if `how` does not say it."""

    how: RunOutcome
    reason: str | None = None


def run_search(
    search: LeaseSource,
    *,
    trainable: Any,
    settings: Mapping[str, Any],
    resources: Resources,
    storage_dir: Path,
    progress: Progress,
    ends_at: float = math.inf,
    ends_last: float | None = None,
    why_lost: Callable[[], str | None] = lambda: None,
    on_ended: Callable[[int], None] = lambda _: None,
    on_finished: Callable[[], None] = lambda: None,
    reuse_workers: bool = True,
    count_slots: Callable[[], int] | None = None,
    inherits_environment: bool = False,
) -> RunEnding:
    """Run the search on the Ray that this process is connected to.

    Args:
        trainable: a Tune class whose results hold `reports`; its processes serve one lease after the other.
        settings: plain values that every worker gets as they are.
        storage_dir: Tune's own files lie there until the run ends.
        ends_at: unix time at which the search must end for the time budget.
        ends_last: unix time up to which it goes on while nothing is complete; None = it does not.
        why_lost: says why this driver no longer holds the study, once it does not.
        on_ended: called with the number of each trial that ended or paused.
        on_finished: called once, when no trial of the search is left, before Tune and its workers end.
        reuse_workers: without it each lease starts a process of its own, to compare with.
        count_slots: says how many trials fit by now; asked at every step of Tune's loop.
        inherits_environment: workers have this process's variables already, as on its own machine.
    """
    watch = _Watch(search, progress, why_lost, ends_at=ends_at, ends_last=ends_last or ends_at)
    search.ends_at = ends_at
    bridge = Bridge(
        search,
        settings=settings,
        slots=resources.slots or 1,
        count_slots=count_slots,
        progress=progress,
        watch=watch.look,
        on_ended=on_ended,
        on_finished=on_finished,
    )
    with Interrupts(watch.stop_cleanly) as interrupts:
        try:
            with started_workers() if inherits_environment else nullcontext():
                _fit(bridge, trainable, resources=resources, storage_dir=storage_dir, reuse=reuse_workers)
        except OutOfTime:
            return RunEnding(how=RunOutcome.TIME_BUDGET)
        except KeyboardInterrupt:
            return RunEnding(how=RunOutcome.INTERRUPTED)
        # A full disk under Tune's files, an error of Ray's own: the search ends, and the study is whole.
        except (TuneError, RayError, RuntimeError, ValueError, OSError) as error:
            ending = _ending_of(error)
            if ending.how is RunOutcome.LOST or not interrupts.received:
                return ending
        finally:
            shutil.rmtree(storage_dir, ignore_errors=True)
    return watch.ending(interrupted=interrupts.received)


class OutOfTime(BaseException):
    """Ends Tune's loop in the middle of epochs; no Exception, which Tune would wait for its workers after."""


class _Watch:
    """Ends a run from outside: after its time budget, or if another driver has taken the study over."""

    def __init__(
        self,
        search: LeaseSource,
        progress: Progress,
        why_lost: Callable[[], str | None],
        *,
        ends_at: float,
        ends_last: float,
    ) -> None:
        """Both moments are unix time, infinite without a time budget."""
        self._search, self._progress, self._why_lost = search, progress, why_lost
        offset = time.monotonic() - time.time()
        self._deadline, self._last_deadline = ends_at + offset, ends_last + offset
        self._out_of_time = self._is_late = False
        self._stopped = math.inf
        self._lost: str | None = None

    def look(self) -> None:
        """Stop the search if it must end; Tune asks at every step of its loop.

        Raises:
            OutOfTime: epochs still run although the time budget is over for LAST_SECONDS.
        """
        self._progress.tick()
        self._lost = self._lost or self._why_lost()
        if self._lost is not None:
            self._search.stop(self._lost)
        elif not self._search.stopping and (self._is_enough or time.monotonic() > self._deadline):
            self._end_in_time()
        elif self._out_of_time and time.monotonic() > self._stopped + LAST_SECONDS:
            raise OutOfTime

    @property
    def _is_enough(self) -> bool:
        """A trial is complete, and the search only went on for the lack of one."""
        return self._is_late and bool(self._search.counts()[State.COMPLETE])

    def _end_in_time(self) -> None:
        """End the search, or let it go on for a while without which there would be no result at all."""
        if self._deadline < self._last_deadline and not self._search.counts()[State.COMPLETE]:
            self._progress.note("nothing is complete yet: the search goes on in the time kept for the export")
            self._search.ends_at += self._last_deadline - self._deadline
            self._deadline = self._last_deadline
            self._is_late = True
            return
        self._out_of_time, self._stopped = True, time.monotonic()
        self._search.stop()

    def stop_cleanly(self) -> None:
        self._search.stop()
        self._progress.note("stopping after the running epochs; press Ctrl-C again to stop now")

    def ending(self, *, interrupted: bool) -> RunEnding:
        """The ending of a run whose loop has returned; of several causes the first in this order counts."""
        if self._lost is not None:
            return RunEnding(how=RunOutcome.LOST, reason=self._lost)
        if self._search.failure is not None:
            return RunEnding(how=RunOutcome.FAILED, reason=self._search.failure)
        if self._search.finished:
            return RunEnding(how=RunOutcome.FINISHED)
        if self._search.out_of_gain:
            return RunEnding(how=RunOutcome.NO_GAIN)
        if interrupted:
            return RunEnding(how=RunOutcome.INTERRUPTED)
        if self._out_of_time or self._search.out_of_time:
            return RunEnding(how=RunOutcome.TIME_BUDGET)
        return RunEnding(how=RunOutcome.FAILED, reason="Ray Tune ended before the search did")


class Interrupts:
    """Make the first request to end call `on_first`, and the second raise KeyboardInterrupt."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.received = False
        self._on_first = on_first
        self._signals = stopping_like_ctrl_c(self._handle)

    def __enter__(self) -> Interrupts:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(None, None, None)

    def _handle(self) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        self._on_first()


def _ending_of(error: BaseException) -> RunEnding:
    """The ending of a run whose loop raised this error."""
    cause = _find_cause(error)
    if isinstance(cause, TakenOver):
        return RunEnding(how=RunOutcome.LOST, reason=str(cause))
    return RunEnding(how=RunOutcome.FAILED, reason=str(cause or error).strip() or type(error).__name__)


def _find_cause(error: BaseException) -> DatabaseGone | None:
    """The study database's own error behind one of Tune's, which wraps whatever its loop raises."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DatabaseGone):
        cause = cause.__cause__ or cause.__context__
    return cause


def _fit(bridge: Bridge, trainable: Any, *, resources: Resources, storage_dir: Path, reuse: bool) -> None:
    # One pending trial for each slot: with fewer, warm actors are thrown away; with more, actors are started
    # for trials that a warm actor then takes, and the end waits for them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.slots or 1)
    os.environ |= _TUNE_SETTINGS
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the progress display says what matters of it
    tune.run(
        trainable,
        name="tune",
        storage_path=str(storage_dir),
        resources_per_trial=tune.PlacementGroupFactory([resources.of_tune_trial]),
        num_samples=-1,
        search_alg=SearcherAdapter(bridge),
        scheduler=SchedulerAdapter(bridge),
        stop=SearchStopper(bridge),
        reuse_actors=reuse,
        raise_on_failed_trial=False,
        verbose=0,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


class _PlainActors(_ActorClassCache):
    """Makes actors of trainables without variables of their own."""

    def get(self, trainable_cls: type) -> Any:
        """Return the trainable as a class of Ray actors, the same one each time."""
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]


@contextmanager
def started_workers() -> Iterator[None]:
    """Let Tune's trials run in worker processes that are up already.

    Tune gives them variables, and for other variables than those of its idle processes Ray starts new ones.
    """
    before = tune_controller._ActorClassCache
    tune_controller._ActorClassCache = _PlainActors
    try:
        yield
    finally:
        tune_controller._ActorClassCache = before


_TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a banner at verbosity 0 too
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # never: the study database is the truth
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
}
