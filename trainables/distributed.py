"""Trains trials on several workers: a Tune trainable that leads a Ray Train run from lease to lease."""

from __future__ import annotations

import os
import threading
import traceback
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import count
from typing import TYPE_CHECKING, Any

import ray
from ray import train, tune
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.exceptions import RayTrainError

from contract.lease_errors import interruption_of
from contract.messages import Lease, LeasedTrial, Outcome, Reason, Report, StudySettings, make_result
from trainables.device.process_setup import paused_collector
from trainables.orders import Answer, Order, Orders

if TYPE_CHECKING:
    from trainables.lease import LeasedRun

WORKER_SHARE = 0.9
"""Share of its CPUs that a worker reserves. The rest is room for the processes that lead trials (a thousandth
of a core each): without it, a trial of two workers on two nodes of one core each would wait for ever."""

END_SECONDS = 8.0
"""Longest that the end of a group is waited for: Ray Tune kills a process that takes 10 s to stop."""

POLL_SECONDS = "0.5"
"""How often Ray Train looks for workers that have ended, instead of every 2 s."""


class DistributedTrial(tune.Trainable):
    """Trains the lone trial of a lease on several workers, an epoch a step; they stay for the next lease.

    The first step starts the workers. An error that all of them raise is the trial's outcome, and they live
    on. Any other ends them all: it is the trial's outcome too, unless it says nothing about the trial. Then
    it ends the lease, and the search tries the trial again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.group: WorkerGroup | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next lease; the workers wait, between two epochs of the one before."""
        self.lease_config, self.has_begun = new_config, False
        return True

    def step(self) -> dict[str, Any]:
        """The trial's next epoch, as the search records it."""
        if self.group is None:
            set_up_ray_train()
            self.group = WorkerGroup(StudySettings.from_values(self.lease_config["settings"]))
        try:
            answer = self.group.follow(Order(lease=None if self.has_begun else self.lease_config))
        except (train.TrainingFailedError, ray.exceptions.RayError, WorkersLost) as error:
            self.cleanup()
            leased = Lease.from_config(self.lease_config).trials[0]
            return make_result([failure_report(leased, error)], over=True)
        self.has_begun = True
        return make_result(answer.reports, over=answer.finished)

    def cleanup(self) -> None:
        group, self.group = self.group, None
        if group is not None:
            group.end()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: ours carry the attempt and outlive the lease."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Unused, as `save_checkpoint` writes none."""


class WorkerGroup:
    """Workers that Ray Train has started and watches; they follow orders until their end.

    If this process is killed, Ray ends what it started: the mailbox, Ray Train's controller and its workers.
    """

    def __init__(self, settings: StudySettings) -> None:
        """Start them, which takes half a minute; `follow` waits for it."""
        self._orders = ray.remote(num_cpus=0)(Orders).remote(settings.workers)
        self._ended: Future[None] = Future()
        threading.Thread(target=self._lead, args=(settings,), daemon=True).start()

    def _lead(self, settings: StudySettings) -> None:
        try:
            make_trainer(settings, self._orders).fit()
        except Exception as error:  # raised again by `follow`
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def follow(self, order: Order) -> Answer:
        """Let all workers follow an order, and return the first one's answer.

        Raises:
            TrainingFailedError: an error that not all workers share has ended the group.
            WorkersLost: the group has ended without an error.
        """
        answer: Future[Answer] = self._orders.give.remote(order).future()
        either: tuple[Future[Any], ...] = (answer, self._ended)
        wait(either, return_when=FIRST_COMPLETED)
        if not answer.done():
            self._ended.result()
            raise WorkersLost("the trial's workers have ended")
        return answer.result()

    def end(self) -> None:
        """End the workers where they are between two epochs, and free what they hold."""
        self._orders.give.remote(Order(ends_group=True))
        wait((self._ended,), timeout=END_SECONDS)
        ray.kill(self._orders)


def set_up_ray_train() -> None:
    """Set what Ray Train reads from this process's environment and passes on to the processes that it starts.

    If this process is killed, Ray Train asks for it at Ray's address, and then frees its workers' CPUs.
    Without the address it gives up where a second Ray runs on the machine, and the CPUs are lost.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_SECONDS)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def make_trainer(settings: StudySettings, orders: Any) -> train.torch.TorchTrainer:
    """Make the Ray Train run of a group, whose workers follow the orders of this mailbox."""
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        train_on_worker,
        train_loop_config={"orders": orders},
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.use_gpu,
            resources_per_worker=worker_resources(settings),
        ),
        run_config=train.RunConfig(name=uuid.uuid4().hex, storage_path=str(settings.paths.ray_train)),
    )


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

    causes, has_died = causes_of(error)
    reasons = [reason_of(cause) for cause in causes]
    reason: Reason | None = next(
        (known for known in reasons if known in (Reason.DIVERGED, Reason.OUT_OF_MEMORY)), None
    )
    if reason is None:
        for cause in causes:
            if interruption_of(cause) is not None:
                raise cause
        if has_died or not causes:  # the others then fail for want of it
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


def causes_of(error: Exception) -> tuple[list[Exception], bool]:
    """The exceptions that the trial's own code raised in the workers, by rank, and whether a worker died."""
    failures = getattr(error, "worker_failures", {})
    raised = [failures[rank] for rank in sorted(failures)]
    causes = [one for one in raised if not isinstance(one, RayTrainError)]
    return causes, len(causes) < len(raised)


def train_on_worker(config: dict[str, Any]) -> None:
    """Train as one worker of a process group, trial after trial, until the group's end is ordered."""
    with paused_collector():
        from trainables.lease import start_lease
        from trainables.training.process_group import join_process_group

    orders, process_group = config["orders"], join_process_group()
    run: LeasedRun | None = None
    for num_taken in count():
        order: Order = ray.get(orders.take.remote(num_taken))
        if order.ends_group:
            return
        if order.lease is not None:
            if run is not None:
                run.release()
            [run] = start_lease(order.lease, process_group=process_group)
        assert run is not None
        run_epoch(run, orders, rank=process_group.rank)


def run_epoch(run: LeasedRun, orders: Any, *, rank: int) -> None:
    """Run a trial's next epoch and answer the order for it.

    Raises:
        Exception: the trial's, which the other workers do not share: it ends this worker, and so the group.
    """
    try:
        reports = run.advance()
    except Exception as error:  # the trial's outcome, or it ends the group
        answer = Answer(reports=tuple(run.end_by(error)), finished=True, error=shared_error(error, rank))
        if not ray.get(orders.answer.remote(rank, answer)):
            raise
        return
    answer = Answer(reports=tuple(reports) if rank == 0 else (), finished=run.finished)
    ray.get(orders.answer.remote(rank, answer))


def shared_error(error: Exception, rank: int) -> str:
    """Name an error that can leave all workers where they are; one of torch's is each worker's own.

    Torch raises in the midst of a backward pass too, where some gradients are under way to other workers.
    """
    from trainables.device.memory import MEMORY_ERRORS
    from trainables.training.checkpoints import Superseded

    name = type(error).__name__
    is_own = isinstance(error, MEMORY_ERRORS) and not isinstance(error, Superseded)
    return f"{name} of worker {rank}" if is_own else name
