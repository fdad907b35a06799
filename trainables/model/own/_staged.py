"""StagedNetwork: a sequence of stages, a pooling and a dropout, as the hand-made networks are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class StagedNetwork(nn.Module):
    """Stages, pooling and dropout: images [B, 3, H, W] -> features [B, F]."""

    def __init__(self, stages: Sequence[nn.Module], *, pooling: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.pretrained_cfg: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.pooling(self.stages(images)).flatten(1))
        return features

    def group_matcher(self, coarse: bool = True) -> dict[str, str]:
        """Say which parameters form a stage, by timm's protocol."""
        return {"stages": r"^stages\.(\d+)"}

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """Leave the pooling out, by timm's protocol."""
        self.pooling = nn.Identity()
