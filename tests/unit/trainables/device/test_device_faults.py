"""A failed accelerator ends the process and the lease; the trial is tried again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import ray.cloudpickle as cloudpickle
import torch
from ray.exceptions import RayTaskError

from cluster.ray_tune.adapters import _describe_error
from cluster.search.search import MAX_CRASHES
from cluster.search.stopping import FAILURE_STREAK
from contract.lease_errors import LeaseError
from contract.messages import Reason
from tests.driven_search import Study, take
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.data.storage_faults import StorageFault
from trainables.device import accelerator
from trainables.device.accelerator import DeviceFault, find_device_fault, is_device_fault

FAULTS = [
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "NCCL error in: ProcessGroupNCCL.cpp:3384, unhandled cuda error",
]
ASSERT = RuntimeError(FAULTS[0])


@pytest.mark.parametrize("text", FAULTS)
def test_an_error_of_the_accelerator_is_known_by_its_words(text: str) -> None:
    assert is_device_fault(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("size mismatch"),
        KeyError("CUDA error"),
    ],
)
def test_a_lack_of_memory_and_a_bug_are_no_fault_of_the_device(error: Exception) -> None:
    assert find_device_fault(error, works=lambda: True) is None


def test_a_device_that_does_not_answer_after_any_error_has_failed() -> None:
    fault = find_device_fault(KeyError("a label"), works=lambda: False)

    assert isinstance(fault, DeviceFault)
    assert "\n" not in str(fault)


def test_a_full_device_works_and_a_broken_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Exception] = []

    def allocate(*_: Any, **__: Any) -> None:
        raise raised[0]

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch, "ones", allocate)

    raised[:] = [torch.OutOfMemoryError("CUDA out of memory")]
    assert accelerator.device_works()
    raised[:] = [ASSERT]
    assert not accelerator.device_works()


def test_a_trial_whose_process_lost_its_accelerator_has_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ASSERT

    monkeypatch.setattr("trainables.run.train_epoch", fail)
    [run] = start_trials(make_settings(tmp_path), make_lease())

    with pytest.raises(DeviceFault, match="device-side assert"):
        run.step()


def described(error: Exception, tmp_path: Path) -> LeaseError:
    """The search's LeaseError for an exception that the trainable raised and Ray passed on."""
    path = tmp_path / "error.pkl"
    path.write_bytes(
        cloudpickle.dumps(RayTaskError("step", "Traceback …", pickle.loads(pickle.dumps(error))))
    )
    trial = type("Trial", (), {"pickled_error_file": str(path), "error_file": None})
    return _describe_error(cast(Any, trial))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DeviceFault("the accelerator failed"), ("the accelerator failed", True, "accelerator")),
        (StorageFault(5, "Input/output error: /a"), ("Input/output error: /a", True, "data")),
        (StorageFault(28, "no space is left"), ("no space is left", True, Reason.DISK_FULL)),
        (StorageFault(122, "no space is left"), ("no space is left", True, Reason.DISK_FULL)),
    ],
)
def test_the_search_tries_the_trial_again(
    error: Exception, expected: tuple[str, bool, str], tmp_path: Path
) -> None:
    found = described(error, tmp_path)

    assert (found.message, found.transient, found.reason) == expected


def test_another_exception_of_the_trainable_is_not_tried_again(tmp_path: Path) -> None:
    assert not described(KeyError("no such layer"), tmp_path).transient


def test_a_device_that_fails_every_trial_in_every_process_stops_the_study(tmp_path: Path) -> None:
    made = Study(tmp_path)
    search = made.search(num_trials=FAILURE_STREAK + 1)
    fault = LeaseError(message="the accelerator failed", transient=True, reason=Reason.ACCELERATOR)

    decisions = []
    for _ in range(FAILURE_STREAK * (MAX_CRASHES + 1)):
        decisions += search.lease_ended(take(search), fault)

    assert [decision.reason for decision in decisions] == [Reason.ACCELERATOR] * FAILURE_STREAK
    assert search.failure is not None
    assert "accelerator" in search.failure
    assert made.records is not None
    made.records.close()
