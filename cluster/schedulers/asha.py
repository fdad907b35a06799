"""ASHA: at 1/9 and at 1/3 of its own schedule a trial goes on if it is among the best third so far.

Li et al. 2020, arXiv 1810.05934, as the stopping variant that Ray has, with rungs at shares of a schedule.
"""

from __future__ import annotations

import math

from cluster.schedulers import Curves
from cluster.schedulers._rungs import rung_epochs, stays
from contract.messages import Action, SchedulerAction

rungs = rung_epochs


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:  # noqa: ARG001
    rung = curves.rung_at(trial, epoch)
    if rung is None:
        return Action.CONTINUE
    score = curves[trial][epoch]
    if math.isnan(score):
        return Action.STOP
    return Action.CONTINUE if stays(score, curves.at_rung(rung).values()) else Action.STOP


def explain(*, trial: int, epoch: int, curves: Curves) -> str:  # noqa: ARG001
    return f"not among the best third after epoch {epoch}"
