"""Batch groups: which configurations can be trained by one worker side by side, told without torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from typing import Any

from contract.trial_config import ACTIVATION_FIELDS, TrialConfig

_DEFAULTS = {field.name: field.default for field in fields(TrialConfig)}
_HEAD_REGIMES = ("linear_probe", "finetune", "bit")


def batch_group(config: Mapping[str, Any]) -> Hashable | None:
    """Equal for trials of a head alone on the same frozen features; None for any other.

    Their epochs take milliseconds, so what they cost is being handed out one by one. MixUp by the batch has
    no features that could be shared, and heads on whole maps are too large to hold many of.
    """
    values = {**_DEFAULTS, **config}
    is_head = values["unfreeze_depth"] == 0 and values["regime"] in _HEAD_REGIMES
    if not is_head or values["mixup_alpha"] > 0 or values["head_pooling"] != "average":
        return None
    return tuple(values[name] for name in ACTIVATION_FIELDS)
