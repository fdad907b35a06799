"""The interface of a regime, which decides phases, head, and the hyperparameters that it fixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from contract.trial_config import TrialConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs in which the same parameters train, under a schedule and an optimizer of their own."""

    first_epoch: int
    """First epoch of the phase, counted from 1."""

    num_epochs: int
    depth: int | str
    """Unfreeze depth: backbone stages that train, counted from the top."""

    learning_rate_factor: float = 1.0
    """This phase's peak learning rate as a share of the trial's."""

    @property
    def last_epoch(self) -> int:
        return self.first_epoch + self.num_epochs - 1


class BaseRegime:
    """The head and the top `unfreeze_depth` stages in one phase; an entry writes only what it changes."""

    pretrained: ClassVar[bool] = True
    """False where the backbone starts from random weights."""

    uses_neighbours: ClassVar[bool] = False
    """True where the head stores the training images' features, and nothing has a gradient."""

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Values of the hyperparameters that are no choice under this regime."""

    def check(self, config: TrialConfig) -> None:
        """Refuse a configuration that contradicts the regime.

        Raises:
            ValueError: it does.
        """
        for name, value in self.fixed.items():
            if getattr(config, name) != value:
                found = getattr(config, name)
                raise ValueError(f"regime {config.regime} needs {name}={value!r}, got {found!r}")

    def phases(self, config: TrialConfig, num_stages: int) -> tuple[Phase, ...]:
        """Check a configuration and plan its phases, from the first to the last.

        Raises:
            ValueError: the configuration contradicts the regime, or unfreezes more stages than there are.
        """
        self.check(config)
        if isinstance(config.unfreeze_depth, int) and config.unfreeze_depth > num_stages:
            raise ValueError(
                f"unfreeze_depth {config.unfreeze_depth} is more than the {num_stages} stages of "
                f'{config.backbone}: use at most {num_stages}, or "all"'
            )
        return self.plan(config, num_stages)

    def plan(self, config: TrialConfig, num_stages: int) -> tuple[Phase, ...]:
        """Plan the phases of a configuration that has been checked."""
        return (Phase(first_epoch=1, num_epochs=config.max_epochs, depth=config.unfreeze_depth),)

    def make_head(
        self, config: TrialConfig, *, in_features: int, num_classes: int, num_train: int, seed: int
    ) -> nn.Module:
        """Make the head, whose weights are drawn from the seed."""
        from trainables.model.heads import make_head

        return make_head(
            in_features,
            num_classes,
            width=config.head_width,
            dropout=config.dropout,
            batch_norm=config.head_batch_norm,
            zero_init=config.zero_init_head,
            seed=seed,
        )
