"""How often trials of a space look at the same activations, told from a sample of its configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.trial_config import ACTIVATION_FIELDS


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a study's trials have in common."""

    depths: tuple[int | str, ...]
    """Unfreeze depths that occur."""

    share: float
    """The chance that two trials read the same activations (Simpson's index)."""


def find_agreement(configs: Sequence[Mapping[str, Any]]) -> Agreement:
    """From configurations of the space, each holding every field of `TrialConfig`."""
    counts = Counter(tuple(config[name] for name in ACTIVATION_FIELDS) for config in configs)
    depths = {config["unfreeze_depth"] for config in configs}
    if any(config["regime"] in ("two_phase", "gradual") for config in configs):
        depths.add(0)  # where they begin
    share = sum(count**2 for count in counts.values()) / max(len(configs), 1) ** 2
    return Agreement(depths=tuple(sorted(depths, key=str)), share=share)
