"""ASHA: at epochs 1, 3, 9, ... only the best third of the trials seen so far goes on."""

from __future__ import annotations

import math

from cluster.schedulers import Action, Curves

GRACE_EPOCHS = 1
REDUCTION = 3
"""Li et al. 2020 (arXiv 1810.05934) and Ray both keep a third (their default is 4 and 4; 3 wastes less)."""


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:  # noqa: ARG001
    if epoch >= max_epochs or not is_rung(epoch):
        return "continue"
    score = curves[trial][epoch]
    if math.isnan(score):
        return "stop"
    scores = (curve[epoch] for curve in curves.values() if epoch in curve)
    finite = sorted((s for s in scores if not math.isnan(s)), reverse=True)
    kept = finite[: max(1, len(finite) // REDUCTION)]
    # A tie with the last one kept goes on: with few validation images equal scores are common. Below
    # REDUCTION trials at a rung, the rung cannot yet tell, so everybody passes, as in Ray's own ASHA.
    return "continue" if len(finite) < REDUCTION or score >= kept[-1] else "stop"


def is_rung(epoch: int) -> bool:
    rung = GRACE_EPOCHS
    while rung < epoch:
        rung *= REDUCTION
    return rung == epoch
