"""Promotion ASHA: a trial pauses at its rung until it is in the best third of all that have reached it.

This is ASHA as published (Li et al. 2020, arXiv 1810.05934, algorithm 2). A paused trial holds no slot: its
lease has ended, and the same trial is handed out again, from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.schedulers import Curves
from cluster.schedulers._rungs import REDUCTION, find_rank, rung_epochs
from contract.messages import Action, SchedulerAction

rungs = rung_epochs


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:  # noqa: ARG001
    rung = curves.rung_at(trial, epoch)
    if rung is None:
        return Action.CONTINUE
    # A trial that would be promoted at once goes on, and keeps its warm worker.
    scores = curves.at_rung(rung)
    promoted = trial in scores and find_rank(trial, scores) < len(scores) // REDUCTION
    return Action.CONTINUE if promoted else Action.PAUSE


def promote(
    *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
) -> int | None:
    """Promote from the highest rung first, so that good trials finish soon."""
    waiting = _by_rung(paused, curves)
    for rung in sorted(waiting, reverse=True):
        scores = curves.at_rung(rung)
        chosen = _find_best(waiting[rung], scores, among=len(scores) // REDUCTION)
        if chosen is not None:
            return chosen
    return _promote_last(waiting, running, curves) if is_last else None


def _promote_last(waiting: Mapping[int, list[int]], running: Mapping[int, int], curves: Curves) -> int | None:
    """At the end of a study, promote at least the best trial of each rung, so that one runs to its end.

    The lowest rung comes first, and no rung that a running trial can still reach.
    """
    for rung in sorted(waiting):
        if any(done < curves.rungs(trial)[rung] for trial, done in running.items()):
            return None
        scores = curves.at_rung(rung)
        chosen = _find_best(waiting[rung], scores, among=max(1, len(scores) // REDUCTION))
        if chosen is not None:
            return chosen
    return None


def _by_rung(paused: Mapping[int, int], curves: Curves) -> dict[int, list[int]]:
    """Numbers of the paused trials by rung."""
    waiting: dict[int, list[int]] = {}
    for trial, epoch in paused.items():
        rung = curves.rung_at(trial, epoch)
        assert rung is not None, f"trial {trial} waits at epoch {epoch}, which is not one of its rungs"
        waiting.setdefault(rung, []).append(trial)
    return waiting


def _find_best(waiting: list[int], scores: Mapping[int, float], *, among: int) -> int | None:
    """The best trial that waits at a rung, if it ranks among the best `among` there; else None."""
    ranked = [(-scores[trial], trial) for trial in waiting if trial in scores]
    if not ranked or among == 0:
        return None
    trial = min(ranked)[1]
    return trial if find_rank(trial, scores) < among else None


def explain(*, trial: int, epoch: int, curves: Curves) -> str:  # noqa: ARG001
    return f"not among the best third of those that came to epoch {epoch}"
