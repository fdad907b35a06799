"""BiT-HyperRule: fine-tune as the Big Transfer paper does, with nothing left to tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    """SGD with momentum and a zero head, without any other regulariser; the schedule brings its own warm-up.

    Learning rate (0.003 at batch 512 as published) and depth (the whole network) are the search space's.
    """

    fixed: ClassVar[Mapping[str, Any]] = {
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "hyperrule",
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "head_width": 0,
        "head_batch_norm": False,
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "zero_init_head": True,
    }
