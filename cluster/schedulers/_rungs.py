"""Rungs: the epochs at which trials are compared, and who is among the best of one."""

from __future__ import annotations

import math
from collections.abc import Container

from cluster.schedulers import Curves

GRACE_EPOCHS = 1
REDUCTION = 3
"""Li et al. 2020 (arXiv 1810.05934) and Ray both keep a third (their default is 4 and 4; 3 wastes less)."""


def find_rungs(max_epochs: int, *, grace: int = GRACE_EPOCHS) -> tuple[int, ...]:
    """grace, 3 grace, 9 grace, ... below the full budget."""
    rungs = []
    while grace < max_epochs:
        rungs.append(grace)
        grace *= REDUCTION
    return tuple(rungs)


def scores_at(epoch: int, curves: Curves, *, among: Container[int] | None = None) -> dict[int, float]:
    """Trial -> score of those that have been there; what is no number does not count."""
    here = {n: curve[epoch] for n, curve in list(curves.items()) if epoch in curve}
    return {n: s for n, s in here.items() if not math.isnan(s) and (among is None or n in among)}


def stays(score: float, scores: list[float]) -> bool:
    """Whether a score is among the best third of those that arrived so far.

    A tie with the last one kept stays: with few validation images equal scores are common. Below REDUCTION
    trials a rung cannot yet tell, so everybody passes, as in Ray's own ASHA.
    """
    if len(scores) < REDUCTION:
        return True
    return score >= sorted(scores, reverse=True)[len(scores) // REDUCTION - 1]
