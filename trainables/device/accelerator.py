"""The device that a trial computes on: its number format, the trial's share of its memory, its faults."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from contract.files import first_line
from contract.messages import Reason
from trainables.device.memory import is_out_of_memory

GIGABYTE = 10**9
CONTEXT_BYTES = 600 * 2**20
"""GPU memory of a process beside PyTorch's allocations: CUDA's context and the libraries' kernels."""

_FAULTS = (
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
"""Words of the libraries' errors, which have no types. After most of these, all that CUDA does in the process
fails."""


def number_format(device: torch.device) -> torch.dtype:
    """The number format that networks compute in: bfloat16 on a GPU that has it natively, else float32.

    bfloat16 reaches as far as float32, so a loss needs no scaling. Older GPUs (V100, T4) only emulate it.
    Their float16 is fast, but it ends at 65504: updates would be skipped while a scale is found, and a frozen
    network's maps could overflow. float32 costs time there and nothing else.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Compute in the device's number format within this context; every forward pass goes through it."""
    chosen = number_format(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=chosen == torch.bfloat16)


def memory_fraction(share: float, *, total_bytes: int) -> float:
    """Return the share of a GPU's memory that PyTorch may allocate in one of its 1/share processes."""
    return max(share - CONTEXT_BYTES / total_bytes, 0.1 * share)


def limit_memory(share: float) -> None:
    """Limit this process to its share of the GPU, so that a trial that asks for more fails itself.

    Without the limit, the trial that asks last would fail for what its neighbours hold.
    """
    if 0 < share < 1:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_fraction(share, total_bytes=total))


def forget_peak(device: torch.device) -> None:
    """Reset the peak of `peak_memory_gb`, for the next trial on this warm worker."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_gb(device: torch.device) -> float:
    """Return GB: on a GPU the peak since `forget_peak`, on a CPU what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIGABYTE
    return process_bytes() / GIGABYTE


def process_bytes() -> int:
    """Return resident memory without mapped files, which all processes share; without /proc, the peak."""
    try:
        _, resident, shared = Path("/proc/self/statm").read_text(encoding="utf-8").split()[:3]
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


class DeviceFault(RuntimeError):
    """The accelerator answers this process no more: the process has to end."""

    interrupts_lease = Reason.ACCELERATOR
    """The trial is tried again elsewhere; this is its reason if the search gives it up."""


def is_device_fault(error: BaseException) -> bool:
    """True where the accelerator or one of its libraries failed for another cause than a lack of memory."""
    if isinstance(error, DeviceFault):
        return True
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return any(phrase in str(error) for phrase in _FAULTS)


def device_works() -> bool:
    """True where a small computation succeeds on the accelerator, or this process uses none."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError as error:
        return is_out_of_memory(error)  # a full device works
    return True


def find_device_fault(error: BaseException, *, works: Callable[[], bool] | None = None) -> DeviceFault | None:
    """The fault of the device behind an error, found by its words or by trying the device, or None.

    Args:
        works: tries the device; None = `device_works`.
    """
    if isinstance(error, DeviceFault):
        return error
    if is_device_fault(error) or not (works or device_works)():
        return DeviceFault(f"the accelerator failed: {first_line(error)}")
    return None
