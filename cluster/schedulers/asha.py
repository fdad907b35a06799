"""ASHA: at epochs 1, 3, 9, ... only the best third of the trials seen so far goes on."""

from __future__ import annotations

import math

from cluster.schedulers import Action, Curves
from cluster.schedulers._rungs import find_rungs, stays

rungs = find_rungs


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:  # noqa: ARG001
    if epoch not in find_rungs(max_epochs):
        return "continue"
    score = curves[trial][epoch]
    if math.isnan(score):
        return "stop"
    return "continue" if stays(score, curves.at(epoch).values()) else "stop"
