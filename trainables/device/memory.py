"""Recovers where memory runs out: frees caches, then repeats the work with fewer images at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""Types of the errors that a lack of memory is raised as; `is_out_of_memory` tells it from other causes."""

_PHRASES = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
_reserves: list[Callable[[], bool]] = []


class Rows(Protocol):
    """A tensor or an array of images."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


RowsT = TypeVar("RowsT", bound=Rows)


def is_out_of_memory(error: BaseException) -> bool:
    """True for a lack of memory, which PyTorch's CPU allocator and CUDA's libraries say in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def register_reserve(free: Callable[[], bool]) -> None:
    """Register a cache that may be emptied when memory runs out.

    Args:
        free: empties it; returns False if there was nothing.
    """
    _reserves.append(free)


def free_reserves() -> bool:
    """Empty every registered cache; False if there was nothing in them."""
    freed = [free() for free in _reserves]  # all of them, not only the first that has something
    return any(freed)


class FittingSize:
    """Number of a trial's images that go through a network at once, halved where memory runs out.

    The next trial starts from what it asks for: smaller parts of a batch change batch norm's numbers, and
    those must not depend on which trials the process has seen before.
    """

    def __init__(self, asked: int | None = None, *, may_shrink: bool = True) -> None:
        """Start from the number asked for.

        Args:
            asked: None = all that come at once.
            may_shrink: False = running out of memory is an error; workers that train together have to agree.
        """
        self.size = asked
        self.is_reduced = False
        self._may_shrink = may_shrink

    def of(self, count: int) -> int:
        """Micro-batch size for a batch of `count` images."""
        return min(self.size or count, count)

    def accept(self, error: BaseException, *, tried: int) -> bool:
        """True for a lack of memory where another try can help: caches were emptied, or `size` was halved."""
        if not self._may_shrink or not is_out_of_memory(error):
            return False
        if free_reserves():
            logger.warning("out of memory with %d images at once: freed what was kept for later", tried)
            return True
        if tried <= 1:
            return False
        self.size, self.is_reduced = tried // 2, True
        logger.warning("out of memory with %d images at once: going on with %d", tried, self.size)
        return True

    def reduce_to(self, size: int) -> None:
        """Take over the size that fitted in an earlier attempt at the trial."""
        self.size, self.is_reduced = size, True

    def compute(self, function: Callable[[RowsT], Tensor], rows: RowsT) -> Tensor:
        """Apply a function that treats every row on its own to chunks that fit, and concatenate."""
        parts: list[Tensor] = []
        done = 0
        while done < len(rows):
            tried = min(self.of(len(rows)), len(rows) - done)
            part = self._attempt(function, rows[done : done + tried])
            if part is not None:
                parts.append(part)
                done += tried
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attempt(self, function: Callable[[RowsT], Tensor], rows: RowsT) -> Tensor | None:
        try:
            return function(rows)
        except MEMORY_ERRORS as error:
            if not self.accept(error, tried=len(rows)):
                raise
        release_memory()  # only here, where the error no longer holds the frames and their tensors
        return None


class Snapshot:
    """A copy of the random state and of tensors that change in place, to redo an update that did not fit."""

    def __init__(self, tensors: Sequence[Tensor], *, device: str) -> None:
        kinds = {tensor.dtype for tensor in tensors}  # copied together they are one kernel each
        self._live = [[tensor for tensor in tensors if tensor.dtype == kind] for kind in kinds]
        self._kept = [[tensor.clone() for tensor in group] for group in self._live]
        self._device = device if device.startswith("cuda") else None
        self.keep()

    def keep(self) -> None:
        """Copy the present values, which `restore` then goes back to."""
        self._random = torch.get_rng_state()
        self._device_random = torch.cuda.get_rng_state(self._device) if self._device else None
        self._copy(self._live, self._kept)

    def restore(self) -> None:
        torch.set_rng_state(self._random)
        if self._device_random is not None and self._device is not None:
            torch.cuda.set_rng_state(self._device_random, self._device)
        self._copy(self._kept, self._live)

    @staticmethod
    @torch.no_grad()
    def _copy(source: list[list[Tensor]], target: list[list[Tensor]]) -> None:
        for values, places in zip(source, target, strict=True):
            torch._foreach_copy_(places, values)


def release_memory() -> None:
    """Return PyTorch's cached blocks to the GPU: they may be of sizes that fit nothing now."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
