"""Train the whole network from random weights: what pretraining is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    """All stages train, since a frozen random one would only lose information."""

    pretrained = False
    fixed: ClassVar[Mapping[str, Any]] = {"unfreeze_depth": "all"}
