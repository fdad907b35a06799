"""Holds what a trial keeps of one epoch, and tells when no better one is to be expected."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Kept:
    """The kept epoch so far: the value that ranks the trial, and what it leaves behind.

    Of a trial that keeps its last epoch, it is empty until that one has ended.
    """

    epoch: int = 0
    value: float | None = None
    merit: float = -math.inf
    """Its merit by the trial's rule: an epoch with a higher one replaces it."""

    depth: int | str = 0
    """Unfreeze depth of its phase: `trained` holds the tensors that trained then."""

    trained: dict[str, Tensor] = field(default_factory=dict)
    log_probabilities: Tensor | None = None
    """Log-probabilities, [validation images, classes]."""


@dataclass
class Patience:
    """Counts epochs without a lower validation loss; each phase starts anew."""

    lowest_loss: float = math.inf
    epochs_without_gain: int = 0

    def observe(self, val_loss: float) -> None:
        gained = val_loss < self.lowest_loss
        self.lowest_loss = min(val_loss, self.lowest_loss)
        self.epochs_without_gain = 0 if gained else self.epochs_without_gain + 1

    def is_out(self, patience: int) -> bool:
        """True after `patience` epochs without a lower loss; 0 disables it."""
        return 0 < patience <= self.epochs_without_gain

    def state(self) -> dict[str, Any]:
        return asdict(self)
