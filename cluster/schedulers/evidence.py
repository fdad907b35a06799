"""Evidence: a trial ends only if it is worse than what it has to beat beyond the noise of the validation set.

After each epoch the trial's chance to end above the best complete trial is estimated: from its own smoothed
score, the gain that complete trials made from the same share of their schedules on, and the noise of the
difference, which is paired image by image where the predicted classes are known. A trial with next to no chance
ends; one that is unlikely to win pauses, and goes on from its checkpoint once nothing is left to propose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.schedulers import Curves
from contract.messages import Action, SchedulerAction

STOP_BELOW = 0.02
PAUSE_BELOW = 0.3
RESUME_ABOVE = 0.15
"""Chances to end above the best complete trial."""
FIRST_SHARE = 0.3
GAIN_DEVIATION = 0.03
"""Standard deviation of the gain from a trial's beginning to its end before any trial has shown it."""


def decide(*, trial: int, epoch: int, curves: Curves, seed: int) -> SchedulerAction:
    if curves.shares(trial)[epoch - 1] < FIRST_SHARE:
        chance = chance_to_win(trial, epoch, curves)
        return Action.CONTINUE if chance is None or chance >= STOP_BELOW else Action.STOP
    chance = chance_to_win(trial, epoch, curves)
    if chance is None or chance >= PAUSE_BELOW:
        return Action.CONTINUE
    return Action.STOP if chance < STOP_BELOW else Action.PAUSE


def promote(
    *, paused: Mapping[int, int], running: Mapping[int, int], curves: Curves, is_last: bool
) -> int | None:
    if not is_last:
        return None
    chances = {trial: chance_to_win(trial, epoch, curves) for trial, epoch in paused.items()}
    likely = [(chance or 0.0, -trial) for trial, chance in chances.items()]
    best, number = max(likely)
    return -number if best >= RESUME_ABOVE else None


def rungs(shares: Sequence[float]) -> tuple[int, ...] | None:
    return tuple(range(1, len(shares)))


def chance_to_win(trial: int, epoch: int, curves: Curves) -> float | None:
    """Chance that the trial ends above the best complete one; None while none is complete."""
    complete = [n for n in curves if n != trial and len(curves.shares(n)) in curves[n]]
    if not complete:
        return None
    rival = max(complete, key=lambda n: (_smoothed(curves[n], len(curves.shares(n))), -n))
    last = len(curves.shares(rival))
    share = curves.shares(trial)[epoch - 1]
    own, theirs = _smoothed(curves[trial], epoch), _smoothed(curves[rival], last)
    gains = [_gain(n, share, curves) for n in complete]
    gain = float(np.mean(gains))
    # Two observations of the value that is assumed without any.
    deviation = GAIN_DEVIATION * math.sqrt(1 - share)
    scatter = sum((one - gain) ** 2 for one in gains)
    gain_variance = (scatter + 2 * deviation**2) / (len(gains) + 2)
    noise = _paired_variance(trial, epoch, rival, last, curves)
    z = (own + gain - theirs) / math.sqrt(gain_variance + noise)
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def _smoothed(curve: Mapping[int, float], epoch: int) -> float:
    """Mean of the newest two epochs, the newest counting twice."""
    before = curve.get(epoch - 1)
    return curve[epoch] if before is None or before > curve[epoch] * 1.0 + 1 else (2 * curve[epoch] + before) / 3


def _gain(trial: int, share: float, curves: Curves) -> float:
    shares = curves.shares(trial)
    epoch = next(e for e, own in enumerate(shares, start=1) if own >= share - 1e-9)
    while epoch not in curves[trial]:
        epoch += 1
    return _smoothed(curves[trial], len(shares)) - _smoothed(curves[trial], epoch)


def _paired_variance(trial: int, epoch: int, rival: int, last: int, curves: Curves) -> float:
    own, theirs = curves.hits(trial, epoch), curves.hits(rival, last)
    if own is None or theirs is None:
        return 0.015**2
    differences = own.astype(float) - theirs
    return float(differences.var() / len(differences)) + 1e-6
