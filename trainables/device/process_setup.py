"""Sets a worker's process up: fast imports, and fast arithmetic on the CPU. Importing it imports no torch."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, as malloc.h numbers them."""


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the garbage collector, and exempt what is made meanwhile from it for good.

    Importing torch and timm makes a million objects that stay, and the collector goes through all of them
    again and again: 1 s of a worker's 4 s.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def prepare_processor(threads: int) -> None:
    """Let torch use `threads` threads, round denormal numbers to zero, and keep freed memory.

    glibc returns large blocks to the system as soon as they are freed, and every activation and gradient is
    such a block: the next one costs a page fault for every 4 KB. Kept, they made the forward pass of lite0
    at 128 px and batch 32 1.5 times as fast, and a step of full fine-tuning 1.3 times (one thread, on a
    machine with other work). Denormals slow vector instructions down and stand for gradients too small to
    matter.
    """
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not in every C library
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
