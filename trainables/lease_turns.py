"""Turns: in which order the trials of a lease run their epochs, and how many of them a step takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainables.lease import LeasedRun, step_in_lockstep
from trainables.run import Report

STEP_SECONDS = 1.0
"""Reports of trials that share a lease are gathered for so long: telling the search costs 10 ms each time."""


def take_turns(runs: Sequence[LeasedRun]) -> list[Report]:
    """An epoch of a trial on its own; of several, epochs for about a second.

    None of those runs past the epoch at which the search judges it: there its lease ends.
    """
    began = time.monotonic()
    reports = [report for run in runs for report in run.begin()]
    while turn := next_turn(runs):
        reports += turn[0].step() if turn[0].lockstep_key is None else step_in_lockstep(turn)
        if not turn[0].shares_lease or time.monotonic() - began > STEP_SECONDS:
            break
    return reports


def next_turn(runs: Sequence[LeasedRun]) -> list[LeasedRun]:
    """Who has most epochs to go; of equals the first, and those that can train in step with it.

    It depends on nothing but the epochs done, so a lease that was cut off goes on in the same order.
    """
    first = max((run for run in runs if not run.finished), key=lambda run: run.remaining, default=None)
    if first is None or first.lockstep_key is None:
        return [] if first is None else [first]
    equals = [run for run in runs if not run.finished and run.remaining == first.remaining]
    return [run for run in equals if run.lockstep_key == first.lockstep_key]
