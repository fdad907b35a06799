"""BiT-HyperRule: fine-tune by the schedule of the Big Transfer paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    """SGD with momentum under HyperRule's schedule, which brings its own warm-up and counts updates.

    The rest is the search space's: as published, a rate of 0.003 at batch 512, the whole network, a linear
    head that starts at zero, and neither decay nor dropout.
    """

    fixed: ClassVar[Mapping[str, Any]] = {
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "hyperrule",
        "warmup_epochs": 0.0,
    }
