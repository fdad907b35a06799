"""A trial whose workers failed gets the reason of the worker whose error explains the others."""

from __future__ import annotations

import pytest
import torch
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from tests.tiny_data import make_lease
from trainables.data.storage_faults import StorageFault
from trainables.device.accelerator import DeviceFault
from trainables.distributed import WorkersLost, failure_report
from trainables.training.loop import Diverged

CLOSED = RuntimeError("Connection closed by peer [127.0.0.1]:18346")


def group_error(*errors: Exception) -> WorkerGroupError:
    failures: dict[int, Exception] = {
        rank: UserExceptionWithTraceback(error, traceback_str=f"Traceback … {error}")
        for rank, error in enumerate(errors)
    }
    return WorkerGroupError("the workers failed", failures)


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
