"""Train the head and the top stages of the backbone together."""

from __future__ import annotations

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    """Trains `unfreeze_depth` stages from the first epoch on."""
