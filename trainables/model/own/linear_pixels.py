"""No network at all: the pixels, for the linear baseline that everything must beat."""

from __future__ import annotations

from torch import nn

from trainables.model.own._staged import StagedNetwork


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    return StagedNetwork([], pooling=nn.Identity())
