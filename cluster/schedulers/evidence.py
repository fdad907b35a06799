"""Evidence: a trial ends only if it is worse than what it has to beat beyond the noise of the validation set.

At 1/6, 1/3 and 2/3 of its own schedule a trial's chance to end above the best complete trial is estimated:
from its own smoothed score, from what complete trials gained between this share of their schedules and their
end, and from the noise of the difference, which is paired image by image where the predicted classes are
known. A trial with next to no chance ends. One that is unlikely to win pauses, and goes on from its
checkpoint once nothing is left to propose and its chance, against the best trial by then, is worth it.

The constants below come from replays of recorded trials (`python -m benchmarks search_quality`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.schedulers import Curves
from cluster.schedulers._rungs import first_epoch, rung_epochs
from contract.messages import Action, SchedulerAction

SHARES = (1 / 6, 1 / 3, 2 / 3)
"""Shares of its planned updates at which a trial is judged."""
STOP_BELOW, PAUSE_BELOW, RESUME_ABOVE = 0.02, 0.3, 0.25
"""Chances to end above the best complete trial."""
GAIN_DEVIATION = 0.05
"""Assumed standard deviation of a trial's gain from its beginning to its end, as two trials would show it."""
UNPAIRED_DEVIATION = 0.015
"""Assumed standard error of a difference where predicted classes are not known."""


def rungs(shares: Sequence[float]) -> tuple[int, ...]:
    return rung_epochs(shares, SHARES)


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:  # noqa: ARG001
    if epoch not in rungs(curves.shares(trial)):
        return Action.CONTINUE
    if math.isnan(curves[trial][epoch]):
        return Action.STOP
    chance = chance_to_win(trial, epoch, curves)
    if chance is None or chance >= PAUSE_BELOW:
        return Action.CONTINUE
    return Action.STOP if chance < STOP_BELOW else Action.PAUSE


def promote(
    *,
    paused: Mapping[int, int],
    running: Mapping[int, int],  # noqa: ARG001
    curves: Curves,
    is_last: bool,
) -> int | None:
    """Once nothing is left to propose, choose the paused trial with the best chance, if that is worth it."""
    if not is_last or not paused:
        return None
    chances = {trial: chance_to_win(trial, epoch, curves) for trial, epoch in paused.items()}
    # Without a complete trial there is nothing to lose against.
    ranked = sorted((-1.0 if chance is None else -chance, trial) for trial, chance in chances.items())
    negative, trial = ranked[0]
    return trial if -negative >= RESUME_ABOVE else None


def explain(*, trial: int, epoch: int, curves: Curves) -> str:
    chance = chance_to_win(trial, epoch, curves)
    if chance is None:
        return f"no finite score after epoch {epoch}"
    share = "under 1%" if chance < 0.01 else f"{chance:.0%}"
    return f"{share} chance after epoch {epoch} to end above trial {_find_rival(trial, curves)}"


def chance_to_win(trial: int, epoch: int, curves: Curves) -> float | None:
    """Chance that a trial ends above the best complete one, given its epochs; None while that says nothing.

    At least one trial must be complete whose schedule is longer than an epoch: one that was ready at once
    shows nothing of what is still gained by those that learn.
    """
    complete = _complete(trial, curves)
    learners = [number for number in complete if len(curves.shares(number)) > 1]
    if not learners:
        return None
    rival = _find_rival(trial, curves)
    share = curves.shares(trial)[epoch - 1]
    gains = np.array([_gain(number, share, curves) for number in learners])
    assumed = GAIN_DEVIATION**2 * (1 - share)
    gain_variance = (float(((gains - gains.mean()) ** 2).sum()) + 2 * assumed) / (len(gains) + 2)
    lead = _smoothed(curves[trial], epoch) + float(gains.mean()) - _final(rival, curves)
    noise = _difference_variance(trial, epoch, rival, curves)
    return 0.5 * (1 + math.erf(lead / math.sqrt(2 * (gain_variance + noise))))


def _complete(trial: int, curves: Curves) -> list[int]:
    """The other trials that have run to their end."""
    return [number for number in curves if number != trial and _last_epoch(number, curves) is not None]


def _find_rival(trial: int, curves: Curves) -> int:
    """The best of the other complete trials; of equals the earliest."""
    return max(_complete(trial, curves), key=lambda number: (_final(number, curves), -number))


def _last_epoch(trial: int, curves: Curves) -> int | None:
    """The last epoch of a trial that has run its whole schedule."""
    last = len(curves.shares(trial))
    return last if last in curves[trial] else None


def _final(trial: int, curves: Curves) -> float:
    return _smoothed(curves[trial], len(curves.shares(trial)))


def _smoothed(curve: Mapping[int, float], epoch: int) -> float:
    """Mean of an epoch's score and the one before it, the newer counting twice."""
    before = curve.get(epoch - 1, math.nan)
    return curve[epoch] if math.isnan(before) else (2 * curve[epoch] + before) / 3


def _gain(trial: int, share: float, curves: Curves) -> float:
    """What a complete trial gained from this share of its schedule to its end."""
    epoch = first_epoch(curves.shares(trial), share) or len(curves.shares(trial))
    while epoch not in curves[trial]:  # an epoch whose score was not finite is missing
        epoch += 1
    return _final(trial, curves) - _smoothed(curves[trial], epoch)


def _difference_variance(trial: int, epoch: int, rival: int, curves: Curves) -> float:
    """Variance of the difference of two accuracies on the same images.

    Images of one group are right or wrong together, so that the variance is one of sums over groups: Liang
    and Zeger 1986, Biometrika 73:13. It is never taken as smaller than that of single images.
    """
    own, theirs = curves.hits(trial, epoch), curves.hits(rival, len(curves.shares(rival)))
    if own is None or theirs is None:
        return UNPAIRED_DEVIATION**2
    differences = own.astype(np.int8) - theirs.astype(np.int8)
    variance = float(differences.var()) / len(differences)
    if curves.groups is not None:
        sums = np.bincount(curves.groups, weights=differences - differences.mean())
        correction = len(sums) / max(len(sums) - 1, 1)
        variance = max(variance, correction * float((sums**2).sum()) / len(differences) ** 2)
    return variance + 1e-6
