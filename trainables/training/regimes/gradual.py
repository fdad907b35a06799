"""Unfreeze from the top: the head first, then one stage more at a time (Howard and Ruder 2018, ULMFiT)."""

from __future__ import annotations

from contract.trial_config import TrialConfig
from trainables.training.regimes._base import BaseRegime, Phase


class Regime(BaseRegime):
    """A stage joins every `gradual_epochs` epochs until `unfreeze_depth` train, which they do to the end.

    Where the epochs are too few for that, several stages join at once. Each phase has the schedule to itself.
    """

    def check(self, config: TrialConfig) -> None:
        super().check(config)
        depth = config.unfreeze_depth
        if depth == 0 or (isinstance(depth, str) and depth != "all"):
            raise ValueError(
                f'regime gradual needs unfreeze_depth as a count of 1 or more, or "all", got {depth!r}'
            )

    def plan(self, config: TrialConfig, num_stages: int) -> tuple[Phase, ...]:
        depth = num_stages if config.unfreeze_depth == "all" else int(config.unfreeze_depth)
        count = min(depth + 1, max(config.max_epochs // config.gradual_epochs, 1))
        starts = [1 + number * config.gradual_epochs for number in range(count)]
        ends = [*starts[1:], config.max_epochs + 1]
        depths = [round(number * depth / (count - 1)) for number in range(count)] if count > 1 else [depth]
        return tuple(
            Phase(first_epoch=start, num_epochs=end - start, depth=phase_depth)
            for start, end, phase_depth in zip(starts, ends, depths, strict=True)
        )
