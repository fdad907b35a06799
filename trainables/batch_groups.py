"""Tells from configurations, without torch, which trials can share a worker or activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from contract.trial_config import ACTIVATION_FIELDS, TrialConfig

_DEFAULTS = {field.name: field.default for field in fields(TrialConfig)}
_HEAD_REGIMES = ("linear_probe", "finetune", "bit")


def batch_group(config: Mapping[str, Any]) -> Hashable | None:
    """A key that is equal for trials of a head alone on the same frozen features; None for any other trial.

    Epochs of a head take milliseconds, so handing them out one by one is most of their cost. MixUp by the
    batch has no features that could be shared, and heads on whole maps are too large to hold many of.
    """
    values = {**_DEFAULTS, **config}
    is_head = values["unfreeze_depth"] == 0 and values["regime"] in _HEAD_REGIMES
    if not is_head or values["mixup_alpha"] > 0 or values["head_pooling"] != "average":
        return None
    return tuple(values[name] for name in ACTIVATION_FIELDS)


@dataclass(frozen=True, kw_only=True)
class ExpectedReuse:
    """Expected reuse of activations between the trials of a study."""

    depths: tuple[int | str, ...]
    """Unfreeze depths that occur, sorted as text."""

    share: float
    """Chance that two trials read the same activations (Simpson's index)."""


def expect_reuse(configs: Sequence[Mapping[str, Any]]) -> ExpectedReuse:
    """Estimate reuse from a sample of the space's configurations, each with every field of TrialConfig."""
    counts = Counter(_activations_read(config) for config in configs)
    depths = {config["unfreeze_depth"] for config in configs}
    if any(config["regime"] in ("two_phase", "gradual") for config in configs):
        depths.add(0)  # where they begin
    share = sum(count**2 for count in counts.values()) / max(len(configs), 1) ** 2
    return ExpectedReuse(depths=tuple(sorted(depths, key=str)), share=share)


def _activations_read(config: Mapping[str, Any]) -> Hashable:
    """A key that is equal for trials that read the same activations.

    Trials with different shares of the synthetic images share those of the real ones, which are most, unless
    the views of an image depend on all others.
    """
    depends_on_all = config["mix"] != "none" or config["minority_policy"]
    return tuple(config[name] for name in ACTIVATION_FIELDS if depends_on_all or name != "synthetic_share")
