"""How far a trial is in its own schedule after each epoch: known before it runs, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contract.trial_config import TrialConfig, make_trial_config
from trainables.training.batches import cut_batches
from trainables.training.regimes import load_regime
from trainables.training.schedules import make_schedule

_MANY_STAGES = 1_000
"""Stands for the stages of a backbone that is not built here: `gradual` then begins a phase while it can."""


def planned_shares(values: Mapping[str, Any], class_counts: Sequence[int]) -> tuple[float, ...]:
    """The share of a trial's planned updates that is done after each of its epochs.

    The last is 1. An epoch that ends while the learning rate still warms up counts 0: it tells nothing.
    What the trial cannot know beforehand, as where early stopping ends it, does not count.

    Args:
        values: the trial's configuration as plain values.
        class_counts: training images of each class.

    Returns:
        One share an epoch; even ones for a configuration that its regime refuses, which fails when it runs.
    """
    config = make_trial_config(values)
    regime = load_regime(config.regime)
    try:
        regime.check(config)
    except ValueError:
        return tuple(epoch / config.max_epochs for epoch in range(1, config.max_epochs + 1))
    num_train = _num_images(config, class_counts)
    batches = cut_batches(np.arange(num_train), size=config.batch_size, limit=config.steps_per_epoch)
    done, ends, warm = 0, [], []
    phases = regime.plan(config, _MANY_STAGES)
    for phase in phases:
        schedule = make_schedule(
            config.schedule,
            total_steps=phase.num_epochs * len(batches),
            warmup_steps=round(config.warmup_epochs * len(batches)),
            num_train=num_train,
        )
        for epoch in range(1, phase.num_epochs + 1):
            steps = min(epoch * len(batches), schedule.total_steps)
            ends.append(done + steps)
            warm.append(steps < schedule.warmup_steps)
            if steps == schedule.total_steps and phase is phases[-1]:
                break
        done = ends[-1]
    return tuple(0.0 if is_warm else end / done for end, is_warm in zip(ends, warm, strict=True))


def _num_images(config: TrialConfig, class_counts: Sequence[int]) -> int:
    """Training images of an epoch, over-sampled ones included."""
    if not config.minority_policy:
        return sum(class_counts)
    return max(class_counts) * sum(count > 0 for count in class_counts)
