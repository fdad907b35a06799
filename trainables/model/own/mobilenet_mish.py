"""MobileNetV2 with Mish activations and blocks that pass over the same input several times."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import BlurPool2d
from torch import Tensor, nn

PASSES = 2
DROPOUT = 0.1


class RepeatedPass(nn.Module):
    """An inverted bottleneck applied several times with the same weights: y = x + f(y), starting from y = x.

    The report says only "several passes over the same input"; this is our reading of it.
    """

    def __init__(self, block: Any, *, passes: int = PASSES, dropout: float = 0.0) -> None:
        super().__init__()
        block.has_skip = False  # the addition is ours
        self.block, self.passes, self.dropout = block, passes, nn.Dropout2d(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for _ in range(self.passes):
            outputs = inputs + self.dropout(self.block(outputs))
        return outputs


class MaxBlurPool(nn.Sequential):
    """Pooling of stride 2 without aliasing: a maximum over neighbours, then a blur (arXiv:1904.11486)."""

    def __init__(self, channels: int, stride: int = 2, **options: Any) -> None:
        super().__init__(nn.MaxPool2d(2, stride=1), BlurPool2d(channels, stride=stride, **options))


def make(variant: str = "plain", *, image_size: int) -> nn.Module:  # noqa: ARG001
    options = {"aa_layer": MaxBlurPool} if variant == "blur" else {}
    module: Any = timm.create_model("mobilenetv2_100", num_classes=0, act_layer=nn.Mish, **options)
    for stage in module.blocks:
        for name, block in list(stage.named_children()):
            if getattr(block, "has_skip", False):
                dropout = DROPOUT if variant == "dropout" else 0.0
                stage.set_submodule(name, RepeatedPass(block, dropout=dropout))
    network: nn.Module = module
    return network
