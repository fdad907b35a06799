"""Learning-rate schedules: the share of the peak value that each update uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EXPONENTIAL_END = 0.01
"""Share of the peak an exponential schedule has decayed to at its end."""

PLATEAU_FACTOR = 0.1
PLATEAU_PATIENCE = 2

# BiT-HyperRule by training images: end of warm-up, three decays, end, in updates.
_HYPERRULE = (
    (20_000, (100, 200, 300, 400, 500)),
    (500_000, (500, 3_000, 6_000, 9_000, 10_000)),
    (math.inf, (500, 6_000, 12_000, 18_000, 20_000)),
)


def constant(step: int, total_steps: int) -> float:  # noqa: ARG001
    """The peak, always."""
    return 1.0


def cosine(step: int, total_steps: int) -> float:
    """Half a cosine from the peak to 0 behind the last update."""
    return 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))


def exponential(step: int, total_steps: int) -> float:
    """The same share lost at every update, down to `EXPONENTIAL_END`."""
    return EXPONENTIAL_END ** (min(step, total_steps) / total_steps)


def hyperrule(num_train: int) -> tuple[int, tuple[int, int, int], int]:
    """BiT-HyperRule's schedule for so many training images: warm-up, decay boundaries and end, in updates."""
    warmup, first, second, third, end = next(steps for below, steps in _HYPERRULE if num_train < below)
    return warmup, (first, second, third), end


def hyperrule_mixup(num_train: int) -> float:
    """BiT-HyperRule's MixUp alpha: none below 20,000 training images."""
    return 0.0 if num_train < 20_000 else 0.1


def hyperrule_resolution(area: int) -> tuple[int, int]:
    """BiT-HyperRule's resize and crop, in pixels a side, by the photos' original height times width."""
    return (160, 128) if area < 96 * 96 else (512, 480)


def hyperrule_epochs(num_train: int, batch_size: int) -> int:
    """Epochs until the schedule's end."""
    return math.ceil(hyperrule(num_train)[2] / math.ceil(num_train / batch_size))


def hyperrule_multiplier(step: int, warmup: int, boundaries: tuple[int, ...], end: int) -> float | None:
    """Share of the base rate at an update counted from 0; None at the end and behind it."""
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


def names() -> list[str]:
    """All schedules, sorted."""
    return sorted([*_DECAYS, "hyperrule"])


@dataclass
class Schedule:
    """A schedule over the updates of one phase, counted from 0."""

    name: str
    total_steps: int
    warmup_steps: int = 0
    boundaries: tuple[int, ...] = ()
    """HyperRule only."""

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
        """End of an epoch: a plateau schedule decays once the loss has not fallen for several."""
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
        """What a checkpoint needs beside the step."""
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
        num_train: training images; only HyperRule asks.
    """
    if name not in names():
        raise ValueError(f"schedule must be one of {', '.join(names())}, got {name!r}")
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
