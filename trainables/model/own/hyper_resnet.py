"""A ResNet whose version (v1, pre-activation v2, ResNeXt), depth and pooling are hyperparameters."""

from __future__ import annotations

import timm
from torch import nn

ARCHITECTURES = {"v1": "resnet50", "v2": "resnetv2_50", "next": "resnext50_32x4d"}
BLOCKS = {"26": (2, 2, 2, 2), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
POOLINGS = {"average": "avg", "max": "max"}


def make(version: str, depth: str, pooling: str, *, image_size: int) -> nn.Module:  # noqa: ARG001
    module: nn.Module = timm.create_model(
        ARCHITECTURES[version], num_classes=0, layers=BLOCKS[depth], global_pool=POOLINGS[pooling]
    )
    return module
