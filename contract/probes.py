"""Probes: frozen heads judged on cached features, and the messages by which they are leased and reported.

A probe is no trial: it has no trial number, no checkpoint and no weights, and is not counted in --trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from contract.trial_config import NOTHING_FROZEN


@dataclass(frozen=True, kw_only=True)
class LeasedProbe:
    """One probe, as it is handed to a worker."""

    probe: int
    """Its number among the study's probes, from 0."""

    config: Mapping[str, Any]
    """Hyperparameters of the head by name; the others have their defaults."""

    @property
    def draw(self) -> int:
        """Number in place of a trial's in the random draws of the head: -1, -2, … differ from any trial's.

        So a probe and a trial never draw the same, and a probe draws the same whoever runs it.
        """
        return -(self.probe + 1)

    def as_values(self) -> dict[str, Any]:
        return asdict(self) | {"config": dict(self.config)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """The end of a probe: what its last epoch measured, or why it has none."""

    probe: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values of the last epoch by the names of METRICS; empty after an error."""

    seconds: float = 0.0
    """Time of the worker from loading the head to its last epoch."""

    error: str | None = None
    """Traceback of its failure, or the limit of the study that it exceeds."""

    def as_values(self) -> dict[str, Any]:
        return asdict(self) | {"metrics": dict(self.metrics)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


def make_probe_result(reports: Iterable[ProbeReport], *, over: bool) -> dict[str, Any]:
    """Make a worker's result of a step for Ray Tune; `over` is as in `make_result`."""
    return {"probes": [report.as_values() for report in reports], "over": over}


def read_probe_reports(result: Mapping[str, Any]) -> list[ProbeReport]:
    """Read the reports from a result of Ray Tune; there are none in that of a lease of trials."""
    return [ProbeReport.from_values(values) for values in result.get("probes", ())]


_OF_THE_BACKBONE = (
    "backbone_learning_rate_factor",
    "layer_decay",
    "frozen_epochs",
    "second_phase_learning_rate_factor",
    "gradual_epochs",
    "num_neighbours",
    "distance",
    "frozen_batch_norm",
    "initial_head",
    "mix",
    "mix_alpha",
    "mix_share",
    "cutmix_min",
    "cutmix_max",
    "mix_within_class",
    "minority_policy",
)
"""Hyperparameters that mean nothing to a frozen head, or would cost it a pass through the backbone."""


def has_frozen_head(config: Mapping[str, Any]) -> bool:
    """True if a configuration, deep or not, has a head that can be trained on the frozen backbone alone."""
    pooling = config.get("head_pooling", "average")
    return config.get("regime") not in NOTHING_FROZEN and pooling == "average"


def frozen_head(config: Mapping[str, Any], *, regime: str = "linear_probe") -> dict[str, Any]:
    """The configuration's head on the frozen backbone, by plain views: without augmentation and mixing."""
    kept = {name: value for name, value in config.items() if name not in _OF_THE_BACKBONE}
    return kept | {"regime": regime, "unfreeze_depth": 0, "policy": "none", "mixup_alpha": 0.0}
