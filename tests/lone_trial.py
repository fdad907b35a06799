"""One trial run to its end without Ray, and what it computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trainables.lease import LeasedRun, start_lease
from trainables.settings import StudySettings

MEASURED = ("images_per_second", "epoch_seconds", "peak_memory_gb")
"""Metrics that say how it went, not what was computed."""

Metrics = list[dict[str, float]]


def run_alone(settings: StudySettings, lease: Mapping[str, Any]) -> Metrics:
    """The metrics of all epochs, less those that are measured; no epoch may fail."""
    [run] = start_lease({"trials": [lease], "settings": asdict(settings)})
    assert isinstance(run, LeasedRun)
    reports = []
    while not run.finished:
        reports += run.step()
        assert reports[-1]["reason"] is None, reports[-1]["traceback"]
    return [
        {name: value for name, value in report["metrics"].items() if name not in MEASURED}
        for report in reports
    ]
