"""Train the head alone on the frozen backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from trainables.training.regimes._base import BaseRegime


class Regime(BaseRegime):
    """Nothing of the backbone trains, so its features are computed once for all trials."""

    fixed: ClassVar[Mapping[str, Any]] = {"unfreeze_depth": 0}
