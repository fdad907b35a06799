"""The pixels themselves as features: with a linear head, the baseline that every network must beat."""

from __future__ import annotations

from torch import nn

from trainables.model.own._staged import StagedNetwork


def make(*, image_size: int) -> nn.Module:  # noqa: ARG001
    network = StagedNetwork([], pooling=nn.Identity())
    network.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # so that a blank image is all zeros
    return network
