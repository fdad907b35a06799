"""How busy the slots of a simulated search were, and how long each waited between epochs and trials."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.study.records import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Busy:
    """One epoch of a simulated trial."""

    process: int
    trial: int
    began: float
    seconds: float
    """As planned: whatever the worker slept longer counts as waiting."""

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """Between the moment all slots are busy and the hand-out of the last trial."""

    share: float
    """Busy time over slot time."""
    workers: int
    """Processes that ran epochs: beyond the slots are those thrown away; fewer, and some never came up."""
    window_seconds: float
    ramp_up_seconds: float
    between_epochs: tuple[float, float]
    """Median and 95th percentile of the seconds from an epoch's end to the same trial's next."""
    between_trials: tuple[float, float]
    """The same to the next trial's first epoch on the same worker."""


def find_utilisation(records: Sequence[TrialRecord], *, slots: int, began: float) -> Utilisation:
    """Made from what the workers wrote into the metrics of each epoch; `began` is when the search did."""
    epochs = list(_epochs(records))
    first: dict[int, float] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.began):
        first.setdefault(epoch.process, epoch.began)
    start = sorted(first.values())[:slots][-1]
    end = max(record.attrs["attempt_started"] for record in records)
    window = max(end - start, 1e-9)
    busy = sum(max(0.0, min(epoch.ended, end) - max(epoch.began, start)) for epoch in epochs)
    same, other = _find_gaps([epoch for epoch in epochs if start <= epoch.began <= end])
    return Utilisation(
        share=busy / (window * slots),
        workers=len(first),
        window_seconds=window,
        ramp_up_seconds=start - began,
        between_epochs=_quantiles(same),
        between_trials=_quantiles(other),
    )


def _epochs(records: Iterable[TrialRecord]) -> Iterable[Busy]:
    for record in records:
        for row in record.epochs.values():
            yield Busy(
                process=int(row.metrics["process"]),
                trial=row.trial,
                began=row.metrics["began"],
                seconds=row.metrics["epoch_seconds"],
            )


def _find_gaps(epochs: Iterable[Busy]) -> tuple[list[float], list[float]]:
    same: list[float] = []
    other: list[float] = []
    before: dict[int, Busy] = {}
    for epoch in sorted(epochs, key=lambda epoch: epoch.began):
        last = before.get(epoch.process)
        if last is not None:
            (same if last.trial == epoch.trial else other).append(epoch.began - last.ended)
        before[epoch.process] = epoch
    return same, other


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return (0.0, 0.0)
    ordered = sorted(seconds)
    return (statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))])
