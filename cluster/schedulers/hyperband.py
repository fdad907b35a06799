"""Asynchronous Hyperband: ASHA in several brackets, some of which start judging later, for slow starters.

A trial's bracket is drawn from the study's seed and its number, with the shares that Hyperband gives them (Li
et al. 2018, JMLR 18-185); trials are compared within their bracket only.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from cluster.schedulers import Action, Curves
from cluster.schedulers._rungs import GRACE_EPOCHS, REDUCTION, find_rungs, stays

rungs = find_rungs


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:
    bracket = draw_bracket(trial, max_epochs=max_epochs, seed=seed)
    if epoch not in find_rungs(max_epochs, grace=GRACE_EPOCHS * REDUCTION**bracket):
        return "continue"
    score = curves[trial][epoch]
    if math.isnan(score):
        return "stop"
    here = curves.at(epoch).items()
    rivals = [s for n, s in here if draw_bracket(n, max_epochs=max_epochs, seed=seed) == bracket]
    return "continue" if stays(score, rivals) else "stop"


@functools.lru_cache(maxsize=100_000)
def draw_bracket(trial: int, *, max_epochs: int, seed: int) -> int:
    """0 judges from the first epoch on; each further one three times later; the last one never."""
    last = len(find_rungs(max_epochs))
    weights = np.array([REDUCTION ** (last - s) / (last - s + 1) for s in range(last + 1)])
    bounds = np.cumsum(weights / weights.sum())
    point = np.random.SeedSequence([seed, trial]).generate_state(1)[0] / 2**32
    return int(np.searchsorted(bounds, point, side="right"))
