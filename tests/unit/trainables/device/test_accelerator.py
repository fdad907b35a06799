"""Trials keep to their share of a GPU's memory, and report the memory that they use."""

from __future__ import annotations

import mmap

import pytest
import torch

from trainables.device.accelerator import CONTEXT_BYTES, memory_fraction, peak_memory_gb, process_bytes

GIB = 2**30


@pytest.mark.parametrize("total", [8 * GIB, 16 * GIB, 80 * GIB])
@pytest.mark.parametrize("trials", [2, 3, 4, 8])
def test_trials_that_share_a_gpu_fit_with_all_that_cuda_takes_beside_them(trials: int, total: int) -> None:
    fraction = memory_fraction(1 / trials, total_bytes=total)

    assert fraction > 0
    if 0.9 * total / trials > CONTEXT_BYTES:
        assert trials * (fraction * total + CONTEXT_BYTES) == pytest.approx(total)


def test_a_share_smaller_than_cudas_own_needs_still_leaves_something() -> None:
    assert memory_fraction(0.05, total_bytes=8 * GIB) == pytest.approx(0.005)


def test_memory_that_a_process_fills_is_counted() -> None:
    before = process_bytes()
    # From the system itself: what malloc hands out may have been resident before.
    with mmap.mmap(-1, 2**27, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as filled:
        filled[:: mmap.PAGESIZE] = b"1" * (len(filled) // mmap.PAGESIZE)
        grown = process_bytes() - before

    assert grown == pytest.approx(2**27, rel=0.2)


def test_a_trial_on_a_cpu_reports_what_its_process_holds() -> None:
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(process_bytes() / 1e9, rel=0.2)
