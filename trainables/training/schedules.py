"""Learning-rate schedules: the share of the peak that each update uses, and how far an epoch gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from contract.trial_config import TrialConfig, make_trial_config
from trainables.data.synthetic import count_added
from trainables.training.regimes import load_regime

EXPONENTIAL_END = 0.01
"""Share of the peak that an exponential schedule has decayed to at its end."""

PLATEAU_FACTOR = 0.1
PLATEAU_PATIENCE = 2

_MANY_STAGES = 1_000
"""Stands for the unknown number of stages of a backbone, which is not built here."""

# BiT-HyperRule by training images: end of warm-up, three decays, end, in updates.
_HYPERRULE = (
    (20_000, (100, 200, 300, 400, 500)),
    (500_000, (500, 3_000, 6_000, 9_000, 10_000)),
    (math.inf, (500, 6_000, 12_000, 18_000, 20_000)),
)


def constant(step: int, total_steps: int) -> float:  # noqa: ARG001
    """The peak at every update."""
    return 1.0


def cosine(step: int, total_steps: int) -> float:
    """Half a cosine from the peak to 0 behind the last update."""
    return 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))


def exponential(step: int, total_steps: int) -> float:
    """The same decay at every update, down to EXPONENTIAL_END."""
    return EXPONENTIAL_END ** (min(step, total_steps) / total_steps)


def hyperrule(num_train: int) -> tuple[int, tuple[int, int, int], int]:
    """Warm-up, decay boundaries and end of BiT-HyperRule's schedule for `num_train` images, in updates."""
    warmup, first, second, third, end = next(steps for below, steps in _HYPERRULE if num_train < below)
    return warmup, (first, second, third), end


def hyperrule_multiplier(step: int, warmup: int, boundaries: tuple[int, ...], end: int) -> float | None:
    """Share of the peak at an update counted from 0; None from the end on."""
    if step < warmup:
        return step / warmup
    if step >= end:
        return None
    return float(0.1 ** sum(boundary < step for boundary in boundaries))


_DECAYS: dict[str, Callable[[int, int], float]] = {
    "cosine": cosine,
    "exponential": exponential,
    "constant": constant,
    "plateau": constant,
}


@dataclass
class Schedule:
    """A schedule over the updates of one phase, counted from 0."""

    name: str
    total_steps: int
    warmup_steps: int = 0
    boundaries: tuple[int, ...] = ()
    """Updates at which HyperRule decays by 10; empty for other schedules."""

    plateau_share: float = 1.0
    lowest_loss: float = math.inf
    epochs_without_improvement: int = 0

    def multiplier(self, step: int) -> float | None:
        """Share of the peak learning rate at this update; None once the schedule has ended."""
        if self.name == "hyperrule":
            return hyperrule_multiplier(step, self.warmup_steps, self.boundaries, self.total_steps)
        if step >= self.total_steps:
            return None
        if step < self.warmup_steps:
            return step / self.warmup_steps
        remaining = max(self.total_steps - self.warmup_steps, 1)
        return _DECAYS[self.name](step - self.warmup_steps, remaining) * self.plateau_share

    def observe(self, val_loss: float) -> None:
        """Count an epoch: a plateau schedule decays after PLATEAU_PATIENCE epochs without a lower loss."""
        if self.name != "plateau":
            return
        if val_loss < self.lowest_loss:
            self.lowest_loss, self.epochs_without_improvement = val_loss, 0
            return
        self.epochs_without_improvement += 1
        if self.epochs_without_improvement > PLATEAU_PATIENCE:
            self.plateau_share *= PLATEAU_FACTOR
            self.epochs_without_improvement = 0

    def state(self) -> dict[str, Any]:
        """State that `load_state` needs beside the step."""
        return {
            "plateau_share": self.plateau_share,
            "lowest_loss": self.lowest_loss,
            "epochs_without_improvement": self.epochs_without_improvement,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.plateau_share = state["plateau_share"]
        self.lowest_loss = state["lowest_loss"]
        self.epochs_without_improvement = state["epochs_without_improvement"]


def make_schedule(name: str, *, total_steps: int, warmup_steps: int = 0, num_train: int = 0) -> Schedule:
    """The schedule of a phase of `total_steps` updates.

    HyperRule runs to its own end, exactly as published, where the phase is long enough. A shorter phase gets
    all of it in proportion, as BiT's authors do for smaller budgets: cut off it would never leave its peak.

    Args:
        num_train: training images, which decide HyperRule's length.
    """
    assert total_steps > 0
    if name != "hyperrule":
        return Schedule(name=name, total_steps=total_steps, warmup_steps=min(warmup_steps, total_steps))
    warmup, boundaries, end = hyperrule(num_train)
    share = min(1.0, total_steps / end)
    return Schedule(
        name=name,
        total_steps=round(end * share),
        warmup_steps=round(warmup * share),
        boundaries=tuple(round(boundary * share) for boundary in boundaries),
    )


def num_batches(num_images: int, *, size: int, limit: int = 0) -> int:
    """Updates of an epoch; a last image on its own is left out, as it has no batch statistics.

    Args:
        limit: most updates; 0 = all.
    """
    count = math.ceil(num_images / size)
    if count > 1 and num_images - (count - 1) * size < 2:
        count -= 1
    return min(count, limit) if limit else count


def planned_shares(
    values: Mapping[str, Any], class_counts: Sequence[int], synthetic_counts: Sequence[int] = ()
) -> tuple[float, ...]:
    """The share of a trial's planned updates that is done after each of its epochs, 1 at the last.

    An epoch that ends while the learning rate still warms up has share 0: it tells nothing. Early stopping
    is not foreseen.

    Args:
        values: the trial's configuration as plain values.
        class_counts: training images of each class.
        synthetic_counts: synthetic images of each class; none without --synthetic.

    Returns:
        One share an epoch; even steps for a configuration that its regime refuses, which fails when it runs.
    """
    config = make_trial_config(values)
    regime = load_regime(config.regime)
    try:
        regime.check(config)
    except ValueError:
        return tuple(epoch / config.max_epochs for epoch in range(1, config.max_epochs + 1))
    added = [count_added(config.synthetic_share, number) for number in synthetic_counts]
    counts = [sum(pair) for pair in zip_longest(class_counts, added, fillvalue=0)]
    num_train = _num_images(config, counts)
    steps_per_epoch = num_batches(num_train, size=config.batch_size, limit=config.steps_per_epoch)
    done, ends, warm = 0, [], []
    phases = regime.plan(config, _MANY_STAGES)
    for phase in phases:
        schedule = make_schedule(
            config.schedule,
            total_steps=phase.num_epochs * steps_per_epoch,
            warmup_steps=round(config.warmup_epochs * steps_per_epoch),
            num_train=num_train,
        )
        for epoch in range(1, phase.num_epochs + 1):
            steps = min(epoch * steps_per_epoch, schedule.total_steps)
            ends.append(done + steps)
            warm.append(steps < schedule.warmup_steps)
            if steps == schedule.total_steps and phase is phases[-1]:
                break
        done = ends[-1]
    return tuple(0.0 if is_warm else end / done for end, is_warm in zip(ends, warm, strict=True))


def _num_images(config: TrialConfig, class_counts: Sequence[int]) -> int:
    """Training images of an epoch, oversampled copies included."""
    if not config.minority_policy:
        return sum(class_counts)
    return max(class_counts) * sum(count > 0 for count in class_counts)
