"""Makes batches one ahead: while the accelerator trains on one, the next is read, moved and augmented."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = tuple[Tensor, Tensor]
ItemT = TypeVar("ItemT")

_END = object()


def one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, each made while the one before it is in use.

    On a CPU they are made when asked for: a thread beside a trial would take the core of another trial.
    """
    return _on_stream(batches, device) if device.type == "cuda" else batches


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to the device; pinned memory lets the CPU go on while an accelerator copies."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _on_stream(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Make batches on a stream of their own; the trial's stream waits for one only where it uses it."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    # Weights, labels and pixels may still be on their way, on the stream that was told to make them.
    side.wait_stream(torch.cuda.current_stream(device))

    def finished() -> Iterator[tuple[Batch, torch.cuda.Event]]:
        for batch in batches:
            yield batch, side.record_event()

    try:
        for batch, ready in in_background(finished(), context=lambda: torch.cuda.stream(side)):
            current = torch.cuda.current_stream(device)
            current.wait_event(ready)
            for tensor in batch:
                tensor.record_stream(current)  # its memory is not given away while this stream uses it
            yield batch
    finally:
        # What the side stream still reads may be freed by now: nothing takes its place before it is read.
        torch.cuda.current_stream(device).wait_stream(side)


def in_background(items: Iterator[ItemT], *, context: Any = nullcontext) -> Iterator[ItemT]:
    """The items, each made by a thread while the one before it is in use; its errors are raised here.

    Args:
        context: entered by the thread around all of its work.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: object) -> bool:
        """Hand an item over; False once the generator is closed and nobody takes it any more."""
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            with context():
                for item in items:
                    if not put((item, None)):
                        return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="next batch", daemon=True)
    thread.start()
    try:
        while (taken := ready.get())[0] is not _END:
            yield taken[0]
        if taken[1] is not None:
            raise taken[1]
    finally:
        stopped.set()
        thread.join()
