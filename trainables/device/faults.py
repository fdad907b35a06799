"""Faults that leave an accelerator useless to the process that met them, though not to others."""

from __future__ import annotations

from collections.abc import Callable

import torch

from contract.messages import Reason
from trainables.device.memory import is_out_of_memory

_PHRASES = (
    "CUDA error",
    "CUDA driver error",
    "HIP error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "CUSOLVER_STATUS",
    "NCCL error",
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "uncorrectable ECC",
    "launch failure",
)
"""The libraries say it in words only. Everything that CUDA does in a process fails after most of these."""


class DeviceFault(RuntimeError):
    """The accelerator answers this process no more: the process has to end."""

    interrupts_lease = Reason.ACCELERATOR
    """The trial is tried again elsewhere; this is its reason if the search gives it up."""


def is_device_fault(error: BaseException) -> bool:
    """Whether the accelerator or one of its libraries failed for another cause than a lack of memory."""
    if isinstance(error, DeviceFault):
        return True
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return any(phrase in str(error) for phrase in _PHRASES)


def device_works() -> bool:
    """Whether a small computation succeeds on the accelerator; True where this process uses none."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return is_out_of_memory(error)  # a full device works
    return True


def find_device_fault(error: BaseException, *, works: Callable[[], bool] | None = None) -> DeviceFault | None:
    """The fault of the device behind an error, told by its words or by trying the device, or None.

    Args:
        works: tries the device; None = `device_works`.
    """
    if isinstance(error, DeviceFault):
        return error
    if is_device_fault(error) or not (works or device_works)():
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return DeviceFault(f"the accelerator failed: {lines[0]}")
    return None
