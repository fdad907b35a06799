"""Trials that run without Ray, and what they computed."""

from __future__ import annotations

from contract.messages import Lease, LeasedTrial, StudySettings
from trainables.lease import LeasedRun, start_lease

MEASURED = ("images_per_second", "epoch_seconds", "peak_memory_gb")
"""Metrics that say how it went, not what was computed."""

Metrics = list[dict[str, float]]


def start_trials(settings: StudySettings, *leased: LeasedTrial) -> list[LeasedRun]:
    """A lease of these trials, sent and received as plain values."""
    return start_lease(Lease(trials=leased).as_config(settings.as_values()))


def run_alone(settings: StudySettings, leased: LeasedTrial) -> Metrics:
    """The metrics of all epochs, less those that are measured; no epoch may fail."""
    [run] = start_trials(settings, leased)
    reports = []
    while not run.finished:
        reports += run.step()
        assert reports[-1].reason is None, reports[-1].traceback
    return [
        {name: value for name, value in report.metrics.items() if name not in MEASURED} for report in reports
    ]
