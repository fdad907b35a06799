"""A hand-made network for five kinds of flowers: four groups of convolution, batch norm, ReLU and pooling."""

from __future__ import annotations

from timm.layers import create_pool2d
from torch import nn

from trainables.model.own._staged import StagedNetwork

FILTERS = (32, 64, 128, 256)
DROPOUT = 0.3
"""Dropout after the second, third and fourth group."""


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    stages: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((3, *FILTERS), FILTERS, strict=False)):
        layers = [nn.Conv2d(before, after, 3, padding="same"), nn.BatchNorm2d(after), nn.ReLU()]
        if number < len(FILTERS) - 1:
            layers.append(create_pool2d("max", 3, 3, padding="same"))
            layers += [nn.Dropout(DROPOUT)] * bool(number)
        stages.append(nn.Sequential(*layers))
    return StagedNetwork(stages, pooling=nn.AdaptiveMaxPool2d(1), dropout=DROPOUT)
