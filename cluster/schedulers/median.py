"""Median stopping: a trial is stopped if its best score is below the median of the others' running averages.

Golovin et al. 2017 (Vizier), with epochs compared at equal shares of each trial's own schedule.
"""

from __future__ import annotations

import math
from statistics import fmean, median

from cluster.schedulers import Curves
from cluster.schedulers._rungs import RUNG_SHARES
from contract.messages import Action, SchedulerAction

MIN_TRIALS = 3
"""Number of other trials that must have come as far; the paper leaves it open, Ray takes 3."""


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:  # noqa: ARG001
    shares = curves.shares(trial)
    if epoch >= len(shares) or shares[epoch - 1] < RUNG_SHARES[0]:
        return Action.CONTINUE
    own = _until(curves, trial, shares[epoch - 1])
    if not own:
        return Action.STOP
    others = [n for n in list(curves) if n != trial and _has_reached(curves, n, shares[epoch - 1])]
    averages = [fmean(values) for n in others if (values := _until(curves, n, shares[epoch - 1]))]
    if len(averages) < MIN_TRIALS:
        return Action.CONTINUE
    return Action.CONTINUE if max(own) >= median(averages) else Action.STOP


def _has_reached(curves: Curves, trial: int, share: float) -> bool:
    shares = curves.shares(trial)
    return any(shares[epoch - 1] >= share for epoch in curves[trial] if epoch <= len(shares))


def _until(curves: Curves, trial: int, share: float) -> list[float]:
    """The trial's scores up to a share of its schedule, without those of its warm-up and its last epoch.

    The score of a last epoch is final, and cannot be compared with those of trials that still run.
    """
    shares = curves.shares(trial)
    here = ((epoch, score) for epoch, score in curves[trial].items() if epoch < len(shares))
    return [score for epoch, score in here if 0 < shares[epoch - 1] <= share and not math.isnan(score)]


def explain(*, trial: int, epoch: int, curves: Curves) -> str:  # noqa: ARG001
    return f"below the median of the others after epoch {epoch}"
