"""Train the head alone first, then the top stages with it at a lower rate."""

from __future__ import annotations

from contract.trial_config import TrialConfig
from trainables.training.regimes._base import BaseRegime, Phase


class Regime(BaseRegime):
    """A new head's first gradients are large and random: they are kept away from the pretrained stages."""

    def check(self, config: TrialConfig) -> None:
        super().check(config)
        if config.unfreeze_depth == 0:
            raise ValueError("regime two_phase needs unfreeze_depth of at least 1: use linear_probe for 0")
        if not 0 < config.frozen_epochs < config.max_epochs:
            raise ValueError(
                "regime two_phase needs frozen_epochs between 1 and max_epochs - 1 = "
                f"{config.max_epochs - 1}, got {config.frozen_epochs}"
            )

    def plan(self, config: TrialConfig, num_stages: int) -> tuple[Phase, ...]:
        return (
            Phase(first_epoch=1, num_epochs=config.frozen_epochs, depth=0),
            Phase(
                first_epoch=config.frozen_epochs + 1,
                num_epochs=config.max_epochs - config.frozen_epochs,
                depth=config.unfreeze_depth,
                learning_rate_factor=config.second_phase_learning_rate_factor,
            ),
        )
