"""Six convolutions from 16 to 256 filters, each with ReLU and 2 x 2 max pooling, flattened."""

from __future__ import annotations

from torch import nn

from trainables.model.own._staged import StagedNetwork

FILTERS = (16, 32, 64, 128, 256, 256)


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    stages = [
        nn.Sequential(nn.Conv2d(before, after, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2))
        for before, after in zip((3, *FILTERS), FILTERS, strict=False)
    ]
    return StagedNetwork(stages, pooling=nn.Identity())
