"""Runs the trials of a lease on this worker, an epoch at a time, and turns their errors into outcomes."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contract.files import find_os_error
from contract.messages import Lease, LeasedTrial, Outcome, Reason, Report, StudySettings
from contract.predictions import pack_log_probabilities
from contract.study_layout import TrialPaths
from trainables.batch_groups import batch_group
from trainables.data.storage_faults import StorageFault, as_storage_fault, wait_out_faults
from trainables.device.accelerator import DeviceFault, find_device_fault, limit_memory
from trainables.device.memory import is_out_of_memory, release_memory
from trainables.device.process_setup import prepare_processor
from trainables.initial_head import start_from_probe
from trainables.limits import OutsideLimits, check_limits
from trainables.run import TrialRun
from trainables.training import checkpoints
from trainables.training.checkpoints import (
    Superseded,
    begin_attempt,
    load_checkpoint,
    save_checkpoint,
    save_predictions,
)
from trainables.training.head_batch import lockstep_key, train_heads, trains_in_lockstep
from trainables.training.loop import Diverged, TrainResult
from trainables.training.process_group import ProcessGroup

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 10.0
"""Work between two checkpoints: a killed worker costs no more, and a shorter trial writes none."""

STEP_SECONDS = 1.0
"""Trials that share a lease report together after this time, since telling the search costs 10 ms."""


class LeasedRun:
    """One trial of a lease, from its newest checkpoint to its outcome."""

    def __init__(
        self, leased: LeasedTrial, settings: StudySettings, *, process_group: ProcessGroup | None = None
    ) -> None:
        self.leased, self.settings, self.process_group = leased, settings, process_group or ProcessGroup()
        self.run: TrialRun | None = None
        self.finished = False
        self._saved_at = time.monotonic()

    @property
    def remaining(self) -> int:
        """Number of epochs until this trial's lease ends."""
        assert self.run is not None
        return self._last_epoch - self.run.epoch

    @property
    def lockstep_key(self) -> Hashable | None:
        """A key that is equal for heads that train in lockstep; None for the ordinary loop."""
        group = batch_group(self.leased.config)
        if self.run is None or group is None or not trains_in_lockstep(self.run.device):
            return None
        key = lockstep_key(self.run.config)
        return None if key is None else (group, key)

    def begin(self) -> list[Report]:
        """Load the trial, if it is not yet; the reports are those that the database lacks after a restart."""
        return self._guarded(self._begin)

    def step(self, trained: TrainResult | Exception | None = None) -> list[Report]:
        """`advance`, with an error turned into the trial's outcome, so that the warm worker lives on.

        Args:
            trained: result or error of the epoch where the head has trained in lockstep with others.
        """
        return self._guarded(lambda: self.advance(trained))

    def advance(self, trained: TrainResult | Exception | None = None) -> list[Report]:
        """Run the next epoch; its report follows those that the database lacks after a restart."""
        reports = self._begin()
        if isinstance(trained, Exception):
            raise trained
        if not self.finished:
            assert self.run is not None
            reports.append(self.run.run_epoch(trained))
            run, shown = self.run, self._judged_predictions(self.run)
            self.process_group.decide(lambda: self._save(run, shown))  # superseded, all workers have to end
            self.finished = self._is_over(self.run)
        return reports

    def _guarded(self, work: Callable[[], list[Report]]) -> list[Report]:
        try:
            return work()
        except Exception as error:  # the trial's outcome, unless it says nothing about the trial
            return self.end_by(error)

    def end_by(self, error: Exception) -> list[Report]:
        """End the trial by an error, and report it as the trial's outcome.

        Raises:
            DeviceFault, StorageFault: it says nothing about the trial and ends the lease.
        """
        if isinstance(error, Superseded):  # a newer attempt has the trial, and ignores what this one says
            self.finished = True
            return []
        raise_interruption(error)
        self.finished = True
        report = replace(
            self._empty_report(),
            outcome=Outcome.FAILED,
            reason=reason_of(error),
            traceback="".join(traceback.format_exception(error)),
        )
        self.release()
        return [report]

    def _begin(self) -> list[Report]:
        if self.run is not None or self.finished:
            return []
        try:
            reports = self._start()
        except OutsideLimits as limit:
            self.finished = True
            return [
                replace(
                    self._empty_report(), outcome=Outcome.INFEASIBLE, limit=str(limit), excess=limit.excess
                )
            ]
        assert self.run is not None
        self.finished = self._is_over(self.run)
        return reports

    @property
    def _last_epoch(self) -> int:
        final = self.leased.final
        fixed = None if final is None else final.fixed_epochs
        return self.leased.until_epoch or fixed or int(self.leased.config["max_epochs"])

    def _is_over(self, run: TrialRun) -> bool:
        return run.finished or (self.leased.shares_lease and run.epoch >= self._last_epoch)

    def _start(self) -> list[Report]:
        prepare_processor(self.settings.threads)
        if self.settings.use_gpu:
            limit_memory(self.settings.gpus_per_worker)
        self.run = TrialRun(self.leased, self.settings, process_group=self.process_group)
        if self.leased.final is None:  # a final's trial was within the limits
            check_limits(
                self.run.classifier,
                image_size=self.settings.image_size,
                max_params=self.settings.max_params,
                max_latency_ms=self.settings.max_latency_ms,
                process_group=self.process_group,
            )
        self._take_over(self.run)
        lacking = [record for record in self.run.records if record.epoch > self.leased.done_epochs]
        return [replace(record, attempt=self.run.attempt) for record in lacking]

    def _take_over(self, run: TrialRun) -> None:
        """Go on from the newest checkpoint; without one begin, with a trained head if it shall have one."""
        # Only the first worker's node may see the newest checkpoint: what it read is what all go on from.
        state = self.process_group.decide(lambda: wait_out_faults(lambda: take_over(run.paths, run.attempt)))
        if state is not None:
            run.continue_from(state)
        if run.epoch == 0:
            wait_out_faults(lambda: start_from_probe(run))

    def _judged_predictions(self, run: TrialRun) -> Tensor | None:
        """Log-probabilities [validation images, classes] that a trial leaves if it is stopped; else None.

        They are those of its kept epoch so far, or of this one where only the last is kept.
        """
        if run.finished or run.epoch not in self.leased.judged_epochs:
            return None
        if run.kept.log_probabilities is not None:
            return run.kept.log_probabilities
        assert run.evaluation is not None
        return run.evaluation.log_probabilities

    def _save(self, run: TrialRun, judged: Tensor | None) -> None:
        """Write a checkpoint where one is due, predictions where it is judged, and the result at the end."""
        if judged is not None:
            values = pack_predictions(run, judged)
            wait_out_faults(lambda: save_predictions(run.paths, values, attempt=run.attempt))
        if run.finished:
            wait_out_faults(lambda: save_result(run))
        elif (
            run.epoch in self.leased.checkpoint_epochs  # the scheduler may pause it here
            or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        ):
            wait_out_faults(lambda: save_checkpoint(run.paths, run.checkpoint_state(), attempt=run.attempt))
            self._saved_at = time.monotonic()

    def _empty_report(self) -> Report:
        """A report without an epoch's metrics, for what ends the trial instead of an epoch."""
        epoch = self.run.epoch if self.run else 0
        return Report(trial=self.leased.trial, attempt=self.leased.attempt, epoch=epoch)

    def release(self) -> None:
        """Free the memory of a trial that has ended: the next one needs it."""
        self.run = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def start_lease(config: Mapping[str, Any], *, process_group: ProcessGroup | None = None) -> list[LeasedRun]:
    """The trials of a lease, given as a Tune config; nothing is loaded before their first step."""
    settings = StudySettings.from_values(config["settings"])
    return [
        LeasedRun(leased, settings, process_group=process_group)
        for leased in Lease.from_config(config).trials
    ]


def take_turns(runs: Sequence[LeasedRun]) -> list[Report]:
    """Run one epoch of a lone trial, or epochs for about a second where trials share the lease.

    No trial that shares its lease runs past its `until_epoch`, where the search judges it.
    """
    began = time.monotonic()
    reports = [report for run in runs for report in run.begin()]
    while turn := next_turn(runs):
        reports += turn[0].step() if turn[0].lockstep_key is None else step_in_lockstep(turn)
        if not turn[0].leased.shares_lease or time.monotonic() - began > STEP_SECONDS:
            break
    return reports


def next_turn(runs: Sequence[LeasedRun]) -> list[LeasedRun]:
    """The trial with most epochs to go, the first of equals, and the equals that train in lockstep with it.

    It depends on nothing but the epochs done, so a lease that was cut off goes on in the same order.
    """
    first = max((run for run in runs if not run.finished), key=lambda run: run.remaining, default=None)
    if first is None or first.lockstep_key is None:
        return [] if first is None else [first]
    equals = [run for run in runs if not run.finished and run.remaining == first.remaining]
    return [run for run in equals if run.lockstep_key == first.lockstep_key]


def step_in_lockstep(runs: Sequence[LeasedRun]) -> list[Report]:
    """Run an epoch of heads with the same lockstep key; an error in it becomes the outcome of each.

    Where memory does not suffice for all at once, each trains by itself; and where not even for one, as any
    other trial does, in parts of a batch.
    """
    trained = _train_heads(runs)
    if trained is None and len(runs) > 1:
        return [report for run in runs for report in step_in_lockstep([run])]
    results = [None] * len(runs) if trained is None else trained
    return [report for run, result in zip(runs, results, strict=True) for report in run.step(result)]


def _train_heads(runs: Sequence[LeasedRun]) -> Sequence[TrainResult | Exception] | None:
    """Train an epoch of all heads; None where memory did not suffice, with the heads as before."""
    heads = [run.run for run in runs if run.run is not None]
    kept = [head.snapshot() for head in heads]
    try:
        return train_heads([head.head_epoch() for head in heads])
    except Exception as error:  # raised again in each trial's own step, whose outcome it becomes
        if not is_out_of_memory(error):
            return [error] * len(runs)
        logger.warning("out of memory with %d heads at once", len(heads))
    release_memory()  # only here, where the error no longer holds the frames and their tensors
    for head, state in zip(heads, kept, strict=True):
        head.restore(state)
    return None


def take_over(paths: TrialPaths, attempt: int) -> dict[str, Any] | None:
    """Keep earlier attempts from writing, and read the checkpoint that they left, if any.

    Raises:
        Superseded: a newer attempt has begun.
    """
    begin_attempt(paths, attempt)
    return load_checkpoint(paths) if attempt > 1 else None


def save_result(run: TrialRun) -> None:
    """Write the trained weights of the kept epoch and its log-probabilities on the validation images."""
    kept, final = run.kept, run.leased.final
    is_out_of_sample = final is None or final.kind.is_out_of_sample
    assert kept.log_probabilities is not None
    content = {
        "trained": kept.trained,
        "depth": kept.depth,
        "epoch": kept.epoch,
        "value": kept.value if is_out_of_sample else None,
        "num_train": len(run.splits["train"]),
    }
    predictions = pack_predictions(run, kept.log_probabilities)
    checkpoints.save_result(
        run.paths,
        model=content,
        predictions=predictions,
        attempt=run.attempt,
        is_out_of_sample=is_out_of_sample,
    )


def pack_predictions(run: TrialRun, log_probabilities: Tensor) -> dict[str, Any]:
    """Return the arrays of predictions.npz for log-probabilities [validation images, classes]."""
    split, shown = run.splits["val"], run.validated
    labels = split.labels.cpu().numpy()[shown]
    packed = pack_log_probabilities(log_probabilities.numpy(), labels)
    return {"ids": split.ids[shown], "labels": labels, **packed}


def raise_interruption(error: Exception) -> None:
    """Raise the fault of the device or the storage behind an error, if any: it ends the lease, not the trial.

    Raises:
        DeviceFault: the accelerator answers this process no more.
        StorageFault: a disk or a share has a transient fault.
    """
    if isinstance(error, DeviceFault | StorageFault):
        raise error
    if (device_fault := find_device_fault(error)) is not None:
        raise device_fault from error
    if (storage_fault := find_os_error(error)) is not None:
        raise as_storage_fault(storage_fault) from error


def reason_of(error: BaseException) -> Reason:
    """Classify a trial's error: diverged, out of memory, data or bug."""
    if isinstance(error, Diverged):
        return Reason.DIVERGED
    if is_out_of_memory(error):
        return Reason.OUT_OF_MEMORY
    return Reason.DATA if isinstance(error, OSError) else Reason.BUG
