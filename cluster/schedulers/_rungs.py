"""Rungs: the shares of a trial's own schedule at which it is compared, and who is among the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

REDUCTION = 3
"""Li et al. 2020 (arXiv 1810.05934) and Ray both keep a third (their default is 4 and 4; 3 wastes less)."""
RUNG_SHARES = (REDUCTION**-2, REDUCTION**-1)
"""Shares of a trial's planned updates at which it is judged.

A share, not an epoch: trials differ in batch size, warm-up and length, and only those that have come equally
far in their own schedules can be compared.
"""
_ROUNDING = 1e-9


def find_rungs(shares: Sequence[float]) -> tuple[int, ...]:
    """The epoch at which a trial stands at each rung, the first rung first; 0 where it stands at none.

    A rung is the first epoch before the trial's last one that has reached the rung's share. Where several
    rungs fall on one epoch, the trial stands at the last of them: that is how far it has come.

    Args:
        shares: share of the planned updates done after each epoch, 0 while the learning rate warms up.
    """
    epochs = [_first_epoch(shares[:-1], rung) for rung in RUNG_SHARES]
    return tuple(0 if epoch in epochs[rung + 1 :] else epoch for rung, epoch in enumerate(epochs))


def rung_epochs(shares: Sequence[float]) -> tuple[int, ...]:
    """The epochs at which a trial may be stopped or paused, in order."""
    return tuple(sorted(epoch for epoch in find_rungs(shares) if epoch))


def even_shares(num_epochs: int) -> tuple[float, ...]:
    """The shares of a trial whose epochs all make the same number of updates, without warm-up."""
    return tuple(epoch / num_epochs for epoch in range(1, num_epochs + 1))


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


def _first_epoch(shares: Sequence[float], wanted: float) -> int:
    reached = (epoch for epoch, share in enumerate(shares, start=1) if share >= wanted - _ROUNDING)
    return next(reached, 0)
