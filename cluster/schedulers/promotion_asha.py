"""Promotion ASHA: a trial waits at its rung until it is among the best third there, however early it came.

This is ASHA as published (Li et al. 2020, arXiv 1810.05934, algorithm 2). A paused trial holds no slot: its
lease has ended, and the same trial is handed out again, from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.schedulers import Action, Curves
from cluster.schedulers._rungs import REDUCTION, find_rungs, scores_at

rungs = find_rungs


def decide(*, trial: int, epoch: int, curves: Curves, max_epochs: int, seed: int) -> Action:  # noqa: ARG001
    if epoch not in find_rungs(max_epochs):
        return "continue"
    # One that would be promoted at once keeps its warm worker.
    scores = scores_at(epoch, curves)
    return "continue" if trial in _best(scores, len(scores) // REDUCTION) else "pause"


def promote(
    *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
) -> int | None:
    """The highest rung first, so that a good trial is finished soon."""
    for epoch in sorted(set(paused.values()), reverse=True):
        scores = scores_at(epoch, curves)
        for trial in _best(scores, len(scores) // REDUCTION):
            if paused.get(trial) == epoch:
                return trial
    return _close(paused, running, curves) if is_last else None


def _close(paused: Mapping[int, int], running: Mapping[int, int], curves: Curves) -> int | None:
    """At the end of a study each rung sends on its best at least, so that something reaches the full budget.

    From the bottom up, and only where nobody can arrive any more.
    """
    for epoch in sorted(set(paused.values())):
        if any(done < epoch for done in running.values()):
            return None
        scores = scores_at(epoch, curves)
        for trial in _best(scores, max(1, len(scores) // REDUCTION)):
            if paused.get(trial) == epoch:
                return trial
    return None


def _best(scores: Mapping[int, float], num: int) -> list[int]:
    """The earlier of two equals first."""
    return sorted(scores, key=lambda trial: (-scores[trial], trial))[:num]
