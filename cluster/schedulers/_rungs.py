"""Rungs: the epochs at which trials are compared, and who is among the best of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def stays(score: float, scores: Collection[float]) -> bool:
    """Whether a score is among the best third of those that arrived so far.

    A tie with the last one kept stays: with few validation images equal scores are common. Below REDUCTION
    trials a rung cannot yet tell, so everybody passes, as in Ray's own ASHA.
    """
    if len(scores) < REDUCTION:
        return True
    return sum(other > score for other in scores) < len(scores) // REDUCTION


def find_rank(trial: int, scores: Mapping[int, float]) -> int:
    """How many are before it, from the best down; the earlier of two equals is first."""
    score = scores[trial]
    return sum(other > score or (other == score and n < trial) for n, other in scores.items())
