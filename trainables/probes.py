"""Runs the probes of a lease on this worker: frozen heads, one after the other, that leave no files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from contract.messages import Lease, LeasedTrial, Report, StudySettings
from contract.probes import LeasedProbe, ProbeReport
from trainables.lease import STEP_SECONDS, LeasedRun, step_in_lockstep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from trainables.run import TrialRun


class ProbeRun(LeasedRun):
    """One probe from its first epoch to its last: a trial that keeps no checkpoint and leaves no files."""

    def __init__(self, leased: LeasedProbe, settings: StudySettings) -> None:
        trial = LeasedTrial(
            trial=leased.draw,
            attempt=1,
            config=leased.config,
            done_epochs=0,
            until_epoch=int(leased.config["max_epochs"]),
        )
        super().__init__(trial, settings)
        self.probe = leased.probe
        self.seconds = 0.0
        self.is_reported = False
        self._last: Report | None = None
        """The newest report, of an epoch or of the error that ended it."""

    def note(self, reports: Sequence[Report]) -> None:
        """Keep the newest report; once the probe is over, its memory is free for the next."""
        self._last = reports[-1] if reports else self._last
        if self.finished:
            self.run = None

    def report(self) -> ProbeReport:
        """What came of a finished probe."""
        assert self._last is not None
        self.is_reported = True
        error = self._last.traceback or self._last.limit
        metrics = {} if error else self._last.metrics
        return ProbeReport(probe=self.probe, metrics=metrics, seconds=self.seconds, error=error)

    def _take_over(self, run: TrialRun) -> None:
        """Nothing is left of an earlier attempt."""

    def _save(self, run: TrialRun, judged: Tensor | None) -> None:
        """Nothing is kept."""


def start_probes(config: Mapping[str, Any]) -> list[ProbeRun]:
    """The probes of a lease, given as a Tune config; nothing is loaded before their first step."""
    settings = StudySettings.from_values(config["settings"])
    return [ProbeRun(leased, settings) for leased in Lease.from_config(config).probes]


def take_probe_turns(runs: Sequence[ProbeRun]) -> list[ProbeReport]:
    """Run probes for about a second, each to its end before the next begins; returns those that ended.

    On an accelerator those that fit together train in lockstep.
    """
    began = time.monotonic()
    reports: list[ProbeReport] = []
    while going := [run for run in runs if not run.finished]:
        turn = _next_turn(going)
        with _shared(turn):
            _step(turn)
        reports += [run.report() for run in runs if run.finished and not run.is_reported]
        if time.monotonic() - began > STEP_SECONDS:
            break
    return reports


def _next_turn(going: Sequence[ProbeRun]) -> list[ProbeRun]:
    """The first probe, and with it those that train in lockstep with it."""
    first = going[0]
    _begin(first)
    if first.lockstep_key is None:
        return [first]
    for run in going[1:]:
        _begin(run)
    alike = [run for run in going if run.lockstep_key == first.lockstep_key]
    return [run for run in alike if run.remaining == first.remaining]


def _begin(run: ProbeRun) -> None:
    with _shared([run]):
        run.note(run.begin())


def _step(turn: Sequence[ProbeRun]) -> None:
    """Run an epoch of each, unless it failed when it was loaded."""
    if turn[0].lockstep_key is None:
        reports = [] if turn[0].finished else turn[0].step()
        turn[0].note(reports)
        return
    reports = step_in_lockstep(turn)
    for run in turn:
        run.note([report for report in reports if report.trial == run.leased.trial])


@contextmanager
def _shared(turn: Sequence[ProbeRun]) -> Iterator[None]:
    """Add the time that passes to the probes', divided among them."""
    began = time.perf_counter()
    yield
    share = (time.perf_counter() - began) / len(turn)
    for run in turn:
        run.seconds += share
