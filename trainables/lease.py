"""A lease on this worker: its trials run an epoch at a time, guarded against their own errors."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainables.accelerator import limit_memory
from trainables.batch_groups import batch_group
from trainables.limits import OutsideLimits, check_limits
from trainables.processor import prepare_processor
from trainables.run import Report, TrialRun
from trainables.run_state import continue_from, state_of
from trainables.settings import StudySettings, make_study_settings
from trainables.training.checkpoints import (
    Superseded,
    begin_attempt,
    load_checkpoint,
    save_checkpoint,
    save_state,
)
from trainables.training.full_disk import DiskFull, write_patiently
from trainables.training.head_batch import lockstep_key, train_heads, trains_in_lockstep
from trainables.training.loop import Diverged, TrainResult
from trainables.training.memory import is_out_of_memory
from trainables.training.team import Team

CHECKPOINT_SECONDS = 10.0
"""A checkpoint is due after so much work: a killed worker costs no more, and a short trial writes none."""


class LeasedRun:
    """One trial of a lease, from its newest checkpoint to its outcome."""

    def __init__(
        self, lease: Mapping[str, Any], settings: StudySettings, *, team: Team | None = None
    ) -> None:
        self.lease, self.settings, self.team = lease, settings, team or Team()
        self.run: TrialRun | None = None
        self.finished = False
        self._saved_at = time.monotonic()

    @property
    def shares_lease(self) -> bool:
        """Whether others may train beside it, up to an epoch that the search has set."""
        return self.lease.get("until_epoch") is not None

    @property
    def remaining(self) -> int:
        """Epochs to the end of its lease."""
        assert self.run is not None
        return self._last_epoch - self.run.epoch

    @property
    def lockstep_key(self) -> Hashable | None:
        """Equal for heads that train at once; None: it trains by the ordinary loop."""
        group = batch_group(self.lease["config"])
        if self.run is None or group is None or not trains_in_lockstep(self.run.device):
            return None
        key = lockstep_key(self.run.config)
        return None if key is None else (group, key)

    def begin(self) -> list[Report]:
        """Load it, if it is not yet; after a restart, the reports that the database lacks."""
        return self._guarded(self._begin)

    def step(self, trained: TrainResult | Exception | None = None) -> list[Report]:
        """`advance`, with an error turned into the trial's outcome, so that the warm worker lives on.

        Args:
            trained: what came of the epoch where the head trains beside others.
        """
        return self._guarded(lambda: self.advance(trained))

    def advance(self, trained: TrainResult | Exception | None = None) -> list[Report]:
        """The reports of the next epoch; after a restart, first those that the database lacks."""
        reports = self._begin()
        if isinstance(trained, Exception):
            raise trained
        if not self.finished:
            assert self.run is not None
            reports.append(self.run.run_epoch(trained))
            self._save(self.run)
            self.finished = self._is_over(self.run)
        return reports

    def _guarded(self, work: Callable[[], list[Report]]) -> list[Report]:
        try:
            return work()
        except Superseded:  # a newer attempt has the trial, and whatever this one says is ignored
            self.finished = True
            return []
        except DiskFull:  # the worker ends, and the search with it: the trial goes on in the next run
            raise
        except Exception as error:
            self.finished = True
            report = self._end("failed", reason=reason_of(error), error=error)
            self._release()
            return [report]

    def _begin(self) -> list[Report]:
        if self.run is not None or self.finished:
            return []
        try:
            reports = self._start()
        except OutsideLimits as limit:
            self.finished = True
            return [self._end("infeasible", reason=str(limit), excess=limit.excess)]
        assert self.run is not None
        self.finished = self._is_over(self.run)
        return reports

    @property
    def _last_epoch(self) -> int:
        return int(self.lease.get("until_epoch") or self.lease["config"]["epochs"])

    def _is_over(self, run: TrialRun) -> bool:
        return run.finished or (self.shares_lease and run.epoch >= self._last_epoch)

    def _start(self) -> list[Report]:
        prepare_processor(self.settings.threads)
        if self.settings.use_gpu:
            limit_memory(self.settings.gpus_per_worker)
        self.run = TrialRun(self.lease, self.settings, team=self.team)
        check_limits(
            self.run.classifier,
            image_size=self.settings.image_size,
            max_params=self.settings.max_params,
            max_latency_ms=self.settings.max_latency_ms,
        )
        if self.team.rank == 0:
            directory, attempt = self.run.directory, self.run.attempt
            write_patiently(lambda: begin_attempt(directory, attempt))
        state = load_checkpoint(self.run.directory) if self.run.attempt > 1 else None
        if state is not None:
            continue_from(self.run, state)
        lacking = [record for record in self.run.records if record["epoch"] > self.lease["done_epochs"]]
        return [{**record, "attempt": self.run.attempt} for record in lacking]

    def _save(self, run: TrialRun) -> None:
        """Write what must outlive this worker: a checkpoint now and then, the result at the end."""
        if self.team.rank != 0:
            return
        if run.finished:
            write_patiently(lambda: save_result(run))
        elif (
            run.epoch in self.lease.get("checkpoint_epochs", ())  # the scheduler may pause it here
            or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        ):
            write_patiently(lambda: save_checkpoint(run.directory, state_of(run), attempt=run.attempt))
            self._saved_at = time.monotonic()

    def _end(
        self, outcome: str, *, reason: str, error: Exception | None = None, excess: float | None = None
    ) -> Report:
        """A report that ends the trial instead of an epoch's."""
        return {
            "trial": self.lease["trial"],
            "attempt": self.lease["attempt"],
            "epoch": self.run.epoch if self.run else 0,
            "metrics": {},
            "outcome": outcome,
            "reason": reason,
            "traceback": "".join(traceback.format_exception(error)) if error else None,
            "excess": excess,
        }

    def _release(self) -> None:
        """Give back what a failed trial holds: after an out of memory the next one must find it free."""
        self.run = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def start_lease(config: Mapping[str, Any], *, team: Team | None = None) -> list[LeasedRun]:
    """The trials of a lease, given as Tune's config; nothing is loaded before their first step."""
    settings = make_study_settings(config["settings"])
    return [LeasedRun(lease, settings, team=team) for lease in config["leases"]]


def step_in_lockstep(runs: Sequence[LeasedRun]) -> list[Report]:
    """An epoch of heads of one lockstep key; an error of all of them is the outcome of each."""
    trained: Sequence[TrainResult | Exception]
    try:
        trained = train_heads([run.run.head_epoch() for run in runs if run.run is not None])
    except Exception as error:
        trained = [error] * len(runs)
    return [report for run, result in zip(runs, trained, strict=True) for report in run.step(result)]


def save_result(run: TrialRun) -> None:
    """Write the best epoch's weights (of what trained) and its validation log-probabilities."""
    best = run.best
    assert best.log_probabilities is not None
    content = {
        "trained": best.trained,
        "depth": best.depth,
        "epoch": best.epoch,
        "value": best.value,
        "num_train": len(run.parts["train"]),
    }
    save_state(run.directory / "model.pt", content)
    part, shown = run.parts["val"], run.validated
    target = run.directory / "predictions.npz"
    aside = run.directory / ".predictions.npz"
    with aside.open("wb") as file:
        np.savez(
            file,
            ids=part.ids[shown],
            labels=part.labels.cpu().numpy()[shown],
            log_probabilities=best.log_probabilities.numpy(),
        )
    aside.replace(target)


def reason_of(error: BaseException) -> str:
    """Why a trial failed: diverged, out of memory, data or bug."""
    if isinstance(error, Diverged):
        return "diverged"
    if is_out_of_memory(error):
        return "out of memory"
    return "data" if isinstance(error, OSError) else "bug"
