"""Turns: in which order the trials of a lease run their epochs, and how many of them a step takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainables.lease import LeasedRun
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
        reports += turn.step()
        if not turn.shares_lease or time.monotonic() - began > STEP_SECONDS:
            break
    return reports


def next_turn(runs: Sequence[LeasedRun]) -> LeasedRun | None:
    """Who has most epochs to go; of equals the first.

    It depends on nothing but the epochs done, so a lease that was cut off goes on in the same order.
    """
    return max((run for run in runs if not run.finished), key=lambda run: run.remaining, default=None)
