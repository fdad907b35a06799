"""Trains one trial on several workers: a Tune function that leads a Ray Train run of the same epochs."""

from __future__ import annotations

import traceback
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.tune.integration.ray_train import TuneReportCallback

from contract.lease_errors import interruption_of
from contract.messages import Lease, LeasedTrial, Outcome, Reason, Report, StudySettings, make_result

WORKER_SHARE = 0.9
"""Share of its CPUs that a worker reserves. The rest is room for the functions that lead trials (a thousandth
of a core each): without it, a trial of two workers on two nodes of one core each would wait for ever."""


def distributed_trial(config: dict[str, Any]) -> None:
    """Train the lone trial of a lease on `workers` processes; rank 0's reports reach the search.

    A worker's error ends all of them. It is reported as the trial's outcome, unless it says nothing about the
    trial: then it ends the lease, and the search tries the trial again.
    """
    settings, leased = StudySettings.from_values(config["settings"]), Lease.from_config(config).trials[0]
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.use_gpu,
            resources_per_worker=worker_resources(settings),
        ),
        run_config=train.RunConfig(
            name=f"{leased.noun}-{leased.trial}-attempt-{leased.attempt}",
            storage_path=str(settings.paths.ray_train),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except (train.TrainingFailedError, ray.exceptions.RayError) as error:
        tune.report(make_result([failure_report(leased, error)]))


class WorkersLost(RuntimeError):
    """Workers of a trial ended without an error of their own, with their node or by a signal."""

    interrupts_lease = Reason.BUG
    """The trial is tried again elsewhere; this is its reason if the search gives it up."""


def worker_resources(settings: StudySettings) -> dict[str, float]:
    """Resources of one worker: a little less CPU than it uses, which leaves room for the leading process."""
    cpus = settings.cpus_per_worker * WORKER_SHARE
    return {"CPU": cpus} | ({"GPU": settings.gpus_per_worker} if settings.use_gpu else {})


def failure_report(leased: LeasedTrial, error: Exception) -> Report:
    """Report a trial whose workers failed, by the error that explains the others: one often makes all fail.

    Raises:
        Exception: one that interrupts the lease: a worker's own, or WorkersLost.
    """
    from trainables.lease import reason_of

    causes = causes_of(error)
    reasons = [reason_of(cause) for cause in causes]
    reason: Reason | None = next(
        (known for known in reasons if known in (Reason.DIVERGED, Reason.OUT_OF_MEMORY)), None
    )
    if reason is None:
        for cause in causes:
            if interruption_of(cause) is not None:
                raise cause
        if not causes:
            raise WorkersLost(
                f"the trial's workers were lost: {str(error).strip().splitlines()[-1]}"
            ) from error
        reason = next((known for known in reasons if known is not Reason.BUG), Reason.BUG)
    return Report(
        trial=leased.trial,
        attempt=leased.attempt,
        epoch=leased.done_epochs,
        outcome=Outcome.FAILED,
        reason=reason,
        traceback="".join(traceback.format_exception(error)),
    )


def causes_of(error: Exception) -> list[Exception]:
    """The exceptions that the trial's own code raised in the workers, by rank; none where a worker died."""
    failures = getattr(error, "worker_failures", {})
    raised = [failures[rank] for rank in sorted(failures)]
    return [one._base_exc for one in raised if isinstance(one, UserExceptionWithTraceback)]


def train_on_worker(config: dict[str, Any]) -> None:
    """Train as one worker of the process group; every worker has to report, and rank 0's content counts."""
    from trainables.lease import raise_interruption, start_lease
    from trainables.training.process_group import join_process_group

    process_group = join_process_group()
    for run in start_lease(config, process_group=process_group):
        while not run.finished:
            try:
                reports = run.advance()
            except Exception as error:  # it ends this worker, and Ray Train then ends the others
                raise_interruption(error)
                raise
            train.report(make_result(reports))
