"""Median stopping: a trial goes on while its best is no worse than the others' median average so far."""

from __future__ import annotations

import math
from statistics import fmean, median

from cluster.schedulers import Curves
from cluster.schedulers._rungs import RUNG_SHARES
from contract.messages import Action, SchedulerAction

MIN_TRIALS = 3
"""Others that must have come as far; Golovin et al. 2017 (Vizier) leave both open, Ray takes 3."""


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

    A last epoch's score is a final one: nobody who is on the way can be compared with it.
    """
    shares = curves.shares(trial)
    here = ((epoch, score) for epoch, score in curves[trial].items() if epoch < len(shares))
    return [score for epoch, score in here if 0 < shares[epoch - 1] <= share and not math.isnan(score)]
