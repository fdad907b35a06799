"""Made-up learning curves: a power law towards an asymptote, whose speed says nothing about where it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_EPOCHS = 27
NOISE = 0.005
"""Standard deviation of an epoch's accuracy: that of 1,000 validation images at 97 %."""


class Curves:
    """A made-up task, in which every configuration always has the same noisy curve."""

    def __init__(self, seed: int) -> None:
        dice = np.random.default_rng(seed)
        self.seed = seed
        self.peak = dice.uniform((-4.0, 0.1, -5.0), (-2.0, 0.5, -3.0))
        self.widths = dice.uniform((0.8, 0.3, 1.5), (1.6, 0.8, 4.0))

    def final(self, config: Mapping[str, Any]) -> float:
        """Return the accuracy without noise that the configuration's curve tends to."""
        return 0.98 - 0.25 * (1 - math.exp(-self._distance(config)))

    def accuracy(self, config: Mapping[str, Any], epoch: int) -> float:
        dice = np.random.default_rng([self.seed, *self._identity(config)])
        # Where a curve begins and how fast it rises are independent of where it ends.
        lag, speed = dice.uniform(0.1, 0.4), math.exp(dice.normal(0.1, 0.4))
        noise = dice.normal(0, NOISE, MAX_EPOCHS)[epoch - 1]
        return self.final(config) - float(lag * epoch**-speed) + float(noise)

    def _distance(self, config: Mapping[str, Any]) -> float:
        point = (math.log10(config["learning_rate"]), config["dropout"], math.log10(config["weight_decay"]))
        return float((((np.array(point) - self.peak) / self.widths) ** 2).sum())

    def _identity(self, config: Mapping[str, Any]) -> list[int]:
        return [int(1e6 * abs(value)) for value in (config["dropout"], math.log(config["learning_rate"]))]
