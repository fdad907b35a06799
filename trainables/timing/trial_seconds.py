"""Seconds that trials take, one alone and many on several slots, from the pace of their backbones."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from contract.trial_config import ACTIVATION_FIELDS, TrialConfig
from trainables.timing.pace import Pace

VALIDATING = 1 / 3
"""Seconds of an image's forward pass through the suffix, by those of its update."""
TRIAL_SECONDS = 0.5
"""Seconds of each trial beside its epochs: handing it out, copying a backbone, saving weights."""

_DEFAULTS = {field.name: field.default for field in fields(TrialConfig)}
_VIEW_FIELDS = tuple(name for name in ACTIVATION_FIELDS if name != "unfreeze_depth")
"""What one pass over the images depends on; it gives the activations of all depths."""
_WITHOUT_TRAINING = ("linear_probe", "knn")

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrialSeconds:
    """What a trial costs its worker."""

    own: float
    """Seconds of its updates and validation, all epochs together."""

    passes: Mapping[Hashable, float]
    """Seconds of each pass over images that its activations need; another trial's serve as well."""

    epochs: int

    @property
    def alone(self) -> float:
        """Seconds that it takes with an empty cache."""
        return self.own + sum(self.passes.values())


def trial_seconds(
    config: Config, pace: Pace, *, num_train: int, num_val: int, num_synthetic: int = 0
) -> TrialSeconds:
    """Estimate a trial from its configuration and the number of images."""
    values = {**_DEFAULTS, **config}
    epochs = 1 if values["regime"] == "knn" else int(values["max_epochs"])
    seen = num_train + round(values["synthetic_share"] * num_synthetic)
    if values["steps_per_epoch"]:
        seen = min(seen, int(values["steps_per_epoch"]) * int(values["batch_size"]))
    val = min(num_val, int(values["validation_images"]) or num_val)
    depth = _deepest(values)
    deep = _deep_epochs(values, epochs)
    update = pace.train(depth)
    each = seen * update + val * update * VALIDATING
    head = (seen + val) * pace.train(0)
    network = tuple(values[name] for name in _VIEW_FIELDS)
    passes: dict[Hashable, float] = {}
    if values["regime"] != "scratch" and depth != "all":
        passes = dict.fromkeys(_views(values, network, epochs), seen * pace.forward)
        passes[(values["backbone"], values["head_pooling"], "val")] = val * pace.forward
    own = TRIAL_SECONDS + deep * each + (epochs - deep) * head
    if values["mixup_alpha"] > 0 and passes:  # mixed images have no activations that could be kept
        own += sum(passes.values())
        passes = {}
    return TrialSeconds(own=own, passes=passes, epochs=epochs)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a search would go."""

    seconds: float
    """Until the last trial has ended."""

    num_complete: int
    first_seconds: float
    """Until the first trial is complete; infinite if none is."""


def simulate(
    trials: Sequence[TrialSeconds],
    *,
    slots: int,
    limit: float = math.inf,
    most_waiting: int | None = None,
    share_of: Callable[[int], float] = lambda _: 1.0,
) -> Course:
    """Hand the trials out to the slots in their order; those that cannot end within the limit wait.

    Args:
        most_waiting: trials that may wait before no further one is looked at; None = any number.
        share_of: share of its schedule that the trial of this position runs before it is stopped.
    """
    free = [0.0] * max(1, slots)
    known: set[Hashable] = set()
    ends: list[float] = []
    waiting = 0
    for position, trial in enumerate(trials):
        share = share_of(position)
        begins = free[0]
        missing = sum(seconds for key, seconds in trial.passes.items() if key not in known)
        end = begins + share * (trial.own + missing)
        if end > limit:
            waiting += 1
            if most_waiting is not None and waiting > most_waiting:
                break
            continue
        known |= trial.passes.keys()
        heapq.heapreplace(free, end)
        ends.append(end)
    return Course(seconds=max(free), num_complete=len(ends), first_seconds=min(ends, default=math.inf))


def _deepest(values: Config) -> int | str:
    if values["regime"] in _WITHOUT_TRAINING:
        return 0
    if values["regime"] == "scratch":
        return "all"
    depth: int | str = values["unfreeze_depth"]
    return depth


def _deep_epochs(values: Config, epochs: int) -> float:
    """Epochs at the deepest point of the schedule; a gradual one is on average half way down."""
    if values["regime"] == "two_phase":
        return max(0, epochs - int(values["frozen_epochs"]))
    return 0.5 * epochs if values["regime"] == "gradual" else float(epochs)


def _views(values: Config, network: tuple[Any, ...], epochs: int) -> list[Hashable]:
    """Every pass over the training images: one where each epoch sees the same, else one an epoch."""
    is_random = values["policy"] != "none" or bool(values["minority_policy"]) or values["mix"] != "none"
    return [(*network, epoch) for epoch in range(epochs)] if is_random else [(*network, "plain")]
