"""Joins suffix and head in one module, which workers wrap and --compile compiles."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from contract.files import first_line
from trainables.device.memory import is_out_of_memory
from trainables.model.classifier import Classifier

logger = logging.getLogger(__name__)


class TrainablePart(nn.Module):
    """Features of the frozen prefix -> logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.suffix, self.head = classifier.suffix, classifier.head
        self._forward = classifier.forward_features

    def forward(self, features: Tensor) -> Tensor:
        return self._forward(features)


def compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile the module with torch.compile; where that fails, go on without it after one warning.

    An error of the module itself is raised by the uncompiled call. What the process compiled before is
    dropped: torch keeps eight versions of a function, which are those of four trials (one version trains, one
    validates), and would run all later trials of a warm worker uncompiled.
    """
    torch.compiler.reset()
    fast = torch.compile(module)
    works = True

    def forward(features: Tensor) -> Tensor:
        nonlocal works
        if not works:
            return module(features)
        try:
            return fast(features)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            works = False
            logger.warning("--compile: going on uncompiled: %s", first_line(error))
        return module(features)

    return forward
