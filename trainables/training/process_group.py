"""Splits a trial's images among the workers that train it together, and joins their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Positions = NDArray[np.int64]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This worker and the others that train the same trial; each takes its share of every batch."""

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    """Sums a tensor over the workers."""

    broadcast: Callable[[Any], Any] | None = None
    """Returns the first worker's object on every worker."""

    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    """Makes a module average its gradients over the workers."""

    def decide(self, work: Callable[[], ResultT]) -> ResultT:
        """Call `work` on the first worker and return its result on all of them.

        Its error is raised on all of them, so that none goes on to wait for the others.
        """
        if self.broadcast is None:
            return work()
        result: ResultT | None = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                result = work()
            except Exception as raised:  # raised below, on every worker
                error = raised
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return result

    def agree_on(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors with the first worker's values."""
        if self.broadcast is None or not tensors:
            return
        values = self.decide(lambda: [tensor.detach().cpu() for tensor in tensors])
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)

    def share(self, positions: Positions) -> Positions:
        """Return this worker's positions: every `size`-th one."""
        return positions[self.rank :: self.size]

    def share_batches(self, batches: Iterable[Positions]) -> list[Positions]:
        """Return this worker's share of every batch; images are repeated to make shares equally large."""
        filled = [np.resize(batch, math.ceil(len(batch) / self.size) * self.size) for batch in batches]
        return [self.share(batch) for batch in filled]

    def gather(self, rows: Tensor, *, num_rows: int, device: torch.device) -> Tensor:
        """Gather all workers' rows [num_rows, columns], in the order that `share` took them from."""
        if self.reduce is None:
            return rows
        whole = torch.zeros(num_rows, rows.shape[1], device=device)
        whole[self.rank :: self.size] = rows.float().to(device)
        return self.reduce(whole).to(rows)

    def joined(self, module: nn.Module) -> nn.Module:
        """Wrap the module so that its gradients are averaged over the workers, if it has any."""
        trains = any(parameter.requires_grad for parameter in module.parameters())
        return self.wrap(module) if trains else module


def join_process_group() -> ProcessGroup:
    """The process group of torch that this worker has joined."""

    def reduce(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def broadcast(value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wrap(module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module)

    rank, size = distributed.get_rank(), distributed.get_world_size()
    return ProcessGroup(rank=rank, size=size, reduce=reduce, broadcast=broadcast, wrap=wrap)
