"""Promotion ASHA: a trial waits at its rung until it is among the best third there, however early it came.

This is ASHA as published (Li et al. 2020, arXiv 1810.05934, algorithm 2). A paused trial holds no slot: its
lease has ended, and the same trial is handed out again, from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.schedulers import Action, Curves
from cluster.schedulers._rungs import REDUCTION, find_rank, find_rungs

rungs = find_rungs


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:  # noqa: ARG001
    if epoch not in find_rungs(max_epochs):
        return "continue"
    # One that would be promoted at once keeps its warm worker.
    scores = curves.at(epoch)
    promoted = trial in scores and find_rank(trial, scores) < len(scores) // REDUCTION
    return "continue" if promoted else "pause"


def promote(
    *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
) -> int | None:
    """The highest rung first, so that a good trial is finished soon."""
    for epoch in sorted(set(paused.values()), reverse=True):
        scores = curves.at(epoch)
        chosen = _find_best(epoch, paused, scores, among=len(scores) // REDUCTION)
        if chosen is not None:
            return chosen
    return _close(paused, running, curves) if is_last else None


def _close(paused: Mapping[int, int], running: Mapping[int, int], curves: Curves) -> int | None:
    """At the end of a study each rung sends on its best at least, so that something reaches the full budget.

    From the bottom up, and only where nobody can arrive any more.
    """
    for epoch in sorted(set(paused.values())):
        if any(done < epoch for done in running.values()):
            return None
        scores = curves.at(epoch)
        chosen = _find_best(epoch, paused, scores, among=max(1, len(scores) // REDUCTION))
        if chosen is not None:
            return chosen
    return None


def _find_best(
    epoch: int, paused: Mapping[int, int], scores: Mapping[int, float], *, among: int
) -> int | None:
    """The best trial that waits there, if it is one of the best `among`; the earlier of two equals first."""
    waiting = [(-scores[trial], trial) for trial, at in paused.items() if at == epoch and trial in scores]
    if not waiting or among == 0:
        return None
    trial = min(waiting)[1]
    return trial if find_rank(trial, scores) < among else None
