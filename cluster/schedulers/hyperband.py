"""Asynchronous Hyperband: ASHA in several brackets, some of which start judging later, for slow starters.

A trial's bracket is drawn from the study's seed and its number, with the shares that Hyperband gives them (Li
et al. 2018, JMLR 18-185); trials are compared within their bracket only.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from cluster.schedulers import Curves
from cluster.schedulers._rungs import REDUCTION, RUNG_SHARES, rung_epochs, stays
from contract.messages import Action, SchedulerAction

rungs = rung_epochs


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:
    rung = curves.rung_at(trial, epoch)
    bracket = draw_bracket(trial, seed=seed)
    if rung is None or rung < bracket:
        return Action.CONTINUE
    score = curves[trial][epoch]
    if math.isnan(score):
        return Action.STOP
    here = curves.at_rung(rung).items()
    rivals = [rival for n, rival in here if draw_bracket(n, seed=seed) == bracket]
    return Action.CONTINUE if stays(score, rivals) else Action.STOP


@functools.lru_cache(maxsize=100_000)
def draw_bracket(trial: int, *, seed: int) -> int:
    """The first rung at which the trial is judged; the last bracket is never judged."""
    last = len(RUNG_SHARES)
    weights = np.array([REDUCTION ** (last - s) / (last - s + 1) for s in range(last + 1)])
    bounds = np.cumsum(weights / weights.sum())
    point = np.random.SeedSequence([seed, trial]).generate_state(1)[0] / 2**32
    return int(np.searchsorted(bounds, point, side="right"))


def explain(*, trial: int, epoch: int, curves: Curves) -> str:  # noqa: ARG001
    return f"not among the best third of its bracket after epoch {epoch}"
