"""Runs a search on Ray Tune until it is finished, interrupted, out of time, or cannot go on."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.exceptions import RayError
from ray.tune.error import TuneError

from cluster.ray_tune.adapters import Bridge, SchedulerAdapter, SearcherAdapter, SearchStopper
from cluster.ray_tune.interrupts import Interrupts
from cluster.ray_tune.progress import Progress
from cluster.ray_tune.resources import Resources
from cluster.search.search import Search
from cluster.study.records import DatabaseGone, TakenOver

HowEnded = Literal["finished", "no gain", "interrupted", "time budget", "failed", "lost"]


@dataclass(frozen=True, kw_only=True)
class RunEnding:
    """How a run ended; unless it is "finished", the same command goes on with the study.

    "no gain": --patience is used up; a larger one goes on. "lost": another driver may have the study by now,
    so nothing of it may be written any more.
    """

    how: HowEnded
    reason: str | None = None


def run_search(
    search: Search,
    *,
    trainable: Any,
    settings: Mapping[str, Any],
    resources: Resources,
    storage_dir: Path,
    progress: Progress,
    time_budget_seconds: float | None = None,
    why_lost: Callable[[], str | None] = lambda: None,
    on_ended: Callable[[int], None] = lambda _: None,
    reuse_workers: bool = True,
    count_slots: Callable[[], int] | None = None,
) -> RunEnding:
    """Run the search on the Ray that this process is connected to.

    `trainable` is a Tune class or function whose results hold `reports`; `settings` reach every worker as
    they are; Tune's own files lie in `storage_dir` meanwhile. `why_lost` says why this driver no longer holds
    the study, once it does not; `on_ended` is called with the number of each trial that has its outcome.
    Without `reuse_workers` each lease starts a process of its own, which is there to be compared with.
    `count_slots` is asked often how many trials fit by now.
    """
    deadline = time.monotonic() + time_budget_seconds if time_budget_seconds is not None else float("inf")
    out_of_time = False
    lost: str | None = None

    def check() -> None:
        nonlocal out_of_time, lost
        progress.tick()
        lost = lost or why_lost()
        if lost is not None:
            search.stop(lost)
        elif time.monotonic() > deadline and not search.stopping:
            out_of_time = True
            search.stop()
        if count_slots is not None and (slots := count_slots()) != bridge.slots:
            progress.note(
                f"{slots} trials at once now, {bridge.slots} before: the cluster's nodes have changed"
            )
            bridge.slots = slots

    def stop_cleanly() -> None:
        search.stop()
        progress.note("stopping after the running epochs; press Ctrl-C again to stop now")

    bridge = Bridge(
        search,
        settings=settings,
        slots=resources.slots or 1,
        progress=progress,
        should_stop=check,
        on_ended=on_ended,
    )
    with Interrupts(stop_cleanly) as interrupts:
        try:
            _fit(bridge, trainable, resources=resources, storage_dir=storage_dir, reuse=reuse_workers)
        except KeyboardInterrupt:
            return RunEnding(how="interrupted")
        # A full disk under Tune's files, an error of Ray's own: the search ends, and the study is whole.
        except (TuneError, RayError, RuntimeError, ValueError, OSError) as error:
            gone = _find_cause(error)
            if isinstance(gone, TakenOver):
                return RunEnding(how="lost", reason=str(gone))
            if not interrupts.received:
                return RunEnding(how="failed", reason=str(gone or error).strip() or type(error).__name__)
        finally:
            shutil.rmtree(storage_dir, ignore_errors=True)
    if lost is not None:
        return RunEnding(how="lost", reason=lost)
    if search.failure is not None:
        return RunEnding(how="failed", reason=search.failure)
    if search.finished:
        return RunEnding(how="finished")
    if search.out_of_gain:
        return RunEnding(how="no gain")
    if interrupts.received:
        return RunEnding(how="interrupted")
    if out_of_time:
        return RunEnding(how="time budget")
    return RunEnding(how="failed", reason="Ray Tune ended before the search did")


def _find_cause(error: BaseException) -> DatabaseGone | None:
    """Our own error behind it: Tune puts the traceback of whatever we raise into an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DatabaseGone):
        cause = cause.__cause__ or cause.__context__
    return cause


def _fit(bridge: Bridge, trainable: Any, *, resources: Resources, storage_dir: Path, reuse: bool) -> None:
    # As many as there are slots: with fewer, warm actors are thrown away; with more, new ones are started
    # for trials that a warm actor then takes, and the end waits for them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.slots or 1)
    os.environ |= _TUNE_SETTINGS
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it, the progress display says
    tune.run(
        trainable,
        name="tune",
        storage_path=str(storage_dir),
        resources_per_trial=tune.PlacementGroupFactory([resources.of_tune_trial]),
        num_samples=-1,
        search_alg=SearcherAdapter(bridge),
        scheduler=SchedulerAdapter(bridge),
        stop=SearchStopper(bridge),
        # A function that is stopped goes on in its thread, and what it started holds on to its resources:
        # only the end of its process ends a Ray Train run.
        reuse_actors=reuse and isinstance(trainable, type),
        raise_on_failed_trial=False,
        verbose=0,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


_TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a banner at verbosity 0 too
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # never: the study database is the truth
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
}
