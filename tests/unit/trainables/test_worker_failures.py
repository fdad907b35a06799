"""A trial whose workers failed gets the reason of the worker whose error explains the others."""

from __future__ import annotations

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from tests.tiny_data import make_lease
from trainables.data.storage_faults import StorageFault
from trainables.device.accelerator import DeviceFault
from trainables.distributed import WorkersLost, failure_report, shared_error
from trainables.training.checkpoints import Superseded
from trainables.training.loop import Diverged

CLOSED = RuntimeError("Connection closed by peer [127.0.0.1]:18346")


def group_error(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("the workers failed", dict(enumerate(errors)))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "out of memory"),
        (Diverged("the loss at update 3 is nan"), "diverged"),
        (KeyError("no such layer"), "bug"),
        (FileNotFoundError("no data.csv"), "data"),
    ],
)
def test_the_reason_is_that_of_the_worker_that_failed_first(error: Exception, reason: str) -> None:
    report = failure_report(make_lease(), group_error(CLOSED, error))

    assert (report.outcome, report.reason) == ("failed", reason)


@pytest.mark.parametrize(
    "error", [DeviceFault("the accelerator failed"), StorageFault(5, "Input/output error")]
)
def test_a_workers_fault_that_says_nothing_about_the_trial_ends_the_lease(error: Exception) -> None:
    with pytest.raises(type(error)):
        failure_report(make_lease(), group_error(CLOSED, error))


def test_a_worker_that_died_without_a_word_ends_the_lease() -> None:
    with pytest.raises(WorkersLost):
        failure_report(make_lease(), WorkerGroupError("a node was lost", {}))


def test_what_the_others_raise_after_a_worker_has_died_is_not_the_trials_failure() -> None:
    died = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())

    with pytest.raises(WorkersLost):
        failure_report(make_lease(), group_error(CLOSED, died))


@pytest.mark.parametrize(
    "error", [Diverged("nan"), Superseded("by attempt 5"), FileNotFoundError("no data.csv")]
)
def test_workers_live_on_after_an_error_that_they_share(error: Exception) -> None:
    assert shared_error(error, 0) == shared_error(error, 1)


@pytest.mark.parametrize("error", [CLOSED, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_workers_never_share_an_error_that_torch_may_raise_in_the_midst_of_an_exchange(
    error: Exception,
) -> None:
    assert shared_error(error, 0) != shared_error(error, 1)
