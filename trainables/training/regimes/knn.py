"""No training at all: the nearest training images, by the frozen backbone's features, vote on the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from contract.trial_config import TrialConfig
from trainables.training.regimes._base import BaseRegime, Phase

if TYPE_CHECKING:
    from torch import nn


class Regime(BaseRegime):
    """Plans one epoch: `num_neighbours` and `distance` are the only choices."""

    uses_neighbours = True
    fixed: ClassVar[Mapping[str, Any]] = {
        "unfreeze_depth": 0,
        "mix": "none",
        "mixup_alpha": 0.0,
        "class_weights": "none",
        "sampler": "shuffle",
    }

    def plan(self, config: TrialConfig, num_stages: int) -> tuple[Phase, ...]:
        return (Phase(first_epoch=1, num_epochs=1, depth=0),)

    def make_head(
        self, config: TrialConfig, *, in_features: int, num_classes: int, num_train: int, seed: int
    ) -> nn.Module:
        from trainables.model.heads import NeighbourHead

        return NeighbourHead(
            in_features,
            num_classes,
            num_images=num_train,
            num_neighbours=config.num_neighbours,
            distance=config.distance,
        )
