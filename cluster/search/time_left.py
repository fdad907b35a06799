"""TimeLeft: which trials can still end before a time budget does, by what trials have taken so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.search.trial_status import TrialStatus

SPARE = 1.15
"""A trial begins only if the time left is so many times what it is expected to take."""
FEWEST_SECONDS = 2.0
"""Expected seconds that must have been measured before the ratio to the expectation counts for much."""
MOST_AHEAD = 8
"""Most proposals that wait, because they cannot end in time, while one that can is looked for."""

Expect = Callable[[Mapping[str, Any]], float]
"""Worker seconds that a configuration's whole schedule is expected to take; 0 where nothing is known."""


class TimeLeft:
    """Compares what trials need with the time that is left; without a time budget everything fits.

    A trial with epochs is expected to go on as fast as it went, the slowest of its epochs counting. One
    without is expected to take what was planned, times the ratio at which the trials of this run have taken
    longer or shorter than planned so far: so a machine that is busier than when it was measured is found out.
    """

    def __init__(self, expect: Expect, *, now: Callable[[], float]) -> None:
        """`now` gives unix time."""
        self.ends_at = math.inf
        """Unix time at which the time budget ends."""
        self._expect, self._now = expect, now
        self._expected = self._taken = 0.0
        self._slowest: dict[int, float] = {}

    @property
    def is_limited(self) -> bool:
        """There is a time budget."""
        return math.isfinite(self.ends_at)

    @property
    def seconds(self) -> float:
        """Seconds until the time budget ends; infinite without one."""
        return self.ends_at - self._now()

    def note_epoch(self, trial: TrialStatus, *, seconds: float) -> None:
        """Count an epoch of a trial that had its worker for itself, `seconds` after the one before."""
        expected = self._expect(trial.config) / int(trial.config["max_epochs"])
        if expected > 0:
            self._expected += expected
            self._taken += seconds
        self._slowest[trial.number] = max(seconds, self._slowest.get(trial.number, 0.0))

    @property
    def ratio(self) -> float:
        """Seconds that epochs took in this run, by those that were expected."""
        return (self._taken + FEWEST_SECONDS) / (self._expected + FEWEST_SECONDS)

    def needed(self, trial: TrialStatus) -> float:
        """Worker seconds that the rest of a trial takes."""
        if trial.num_epochs and trial.seconds > 0:
            return trial.seconds_to_end
        return self._expect(trial.config) * self.ratio

    def fits(self, trial: TrialStatus) -> bool:
        """The rest of the trial can end in time."""
        return not self.is_limited or SPARE * self.needed(trial) <= self.seconds

    def holds_epoch(self, trial: TrialStatus) -> bool:
        """Another epoch of a running trial can end in time."""
        return not self.is_limited or self._slowest.get(trial.number, 0.0) <= self.seconds
