"""The workers that train a trial together: who takes which images, and how their results are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Positions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Team:
    """This worker among all; each takes its share of every batch."""

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None
    """Sums a tensor over the workers."""

    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    """Makes the trainable part average its gradients over the workers."""

    def share(self, positions: Positions) -> Positions:
        """This worker's part of the positions."""
        return positions[self.rank :: self.size]

    def share_batches(self, batches: Iterable[Positions]) -> list[Positions]:
        """This worker's part of every batch; all parts are equally large, filled up where needed."""
        filled = [np.resize(batch, math.ceil(len(batch) / self.size) * self.size) for batch in batches]
        return [self.share(batch) for batch in filled]

    def gather(self, rows: Tensor, *, num_rows: int, device: torch.device) -> Tensor:
        """All workers' rows, in the order they were shared out from."""
        if self.reduce is None:
            return rows
        whole = torch.zeros(num_rows, rows.shape[1], device=device)
        whole[self.rank :: self.size] = rows.float().to(device)
        return self.reduce(whole).to(rows)

    def joined(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the workers, if it has any."""
        trains = any(parameter.requires_grad for parameter in module.parameters())
        return self.wrap(module) if trains else module
