"""Median stopping: a trial goes on while its best is no worse than the others' median average so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, median

from cluster.schedulers import Action, Curves

GRACE_EPOCHS = 1
MIN_TRIALS = 3
"""Others that must have come as far; Golovin et al. 2017 (Vizier) leave both open, Ray takes 3."""


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:  # noqa: ARG001
    if epoch >= max_epochs or epoch < GRACE_EPOCHS:
        return "continue"
    own = _until(curves[trial], epoch)
    if not own:
        return "stop"
    others = (_until(c, epoch) for n, c in list(curves.items()) if n != trial and epoch in c)
    averages = [fmean(values) for values in others if values]
    if len(averages) < MIN_TRIALS:
        return "continue"
    return "continue" if max(own) >= median(averages) else "stop"


def _until(curve: Mapping[int, float], epoch: int) -> list[float]:
    return [value for at, value in curve.items() if at <= epoch and not math.isnan(value)]
