"""A moving average of the weights, which validates better than the last ones: what `ema_decay` turns on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """Exponential average of tensors that an optimizer changes in place."""

    def __init__(self, live: Mapping[str, Tensor], *, decay: float) -> None:
        """Starts from the tensors as they are."""
        self.live, self.decay, self.updates = dict(live), decay, 0
        self.average = {name: tensor.clone() for name, tensor in live.items()}
        self._floats = [name for name, tensor in live.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer's step. The first updates decay faster, or the start would linger."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [self.average[name] for name in self._floats]
        torch._foreach_lerp_(averages, [self.live[name] for name in self._floats], 1 - decay)
        for name in self.live.keys() - set(self._floats):
            self.average[name].copy_(self.live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The live tensors hold the average for as long as this lasts."""
        kept = {name: tensor.clone() for name, tensor in self.live.items()}
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self.live.items():
            tensor.copy_(values[name])

    def state(self) -> dict[str, object]:
        """What a checkpoint needs."""
        return {"average": self.average, "updates": self.updates}

    def load_state(self, average: Mapping[str, Tensor], *, updates: int) -> None:
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
