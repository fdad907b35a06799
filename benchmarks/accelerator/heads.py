"""Heads a second of one lease: all of them in lockstep, and one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

from benchmarks.accelerator.arithmetic import of_trials
from benchmarks.accelerator.limits import Limits
from benchmarks.accelerator.study import Task
from benchmarks.accelerator.timing import Clock, count_flops
from contract.messages import Lease, LeasedTrial, StudySettings
from trainables import lease
from trainables.lease import start_lease, take_turns

PART = "heads"
EPOCHS = 4


def measure_heads(clock: Clock, limits: Limits, task: Task, *, backbone: str, counts: Sequence[int]) -> None:
    """Time whole leases of heads on the same cached features, from building them to their results on disk."""
    settings = task.settings(num_trials=max(counts))
    config = task.config(backbone, 0, max_epochs=EPOCHS)
    numbers = itertools.count()
    flops: list[float] = []

    def count_one() -> None:
        run_lease(settings, config, [next(numbers)])  # computes the features, which are no part of a head
        flops.append(count_flops(lambda: run_lease(settings, config, [next(numbers)])))

    clock.attempt(PART, f"{backbone}: counting operations", count_one)

    def cell(count: int, what: str, *, in_lockstep: bool) -> None:
        with patch.object(lease, "trains_in_lockstep", lambda _: in_lockstep):
            clock.rate(
                PART,
                what,
                lambda: run_lease(settings, config, [next(numbers) for _ in range(count)]),
                amount=count,
                unit="heads/s",
                cost=flops[0] if flops else 0.0,
                limit=limits.of_products(of_trials(clock.device).precision),
                note=f"{EPOCHS} epochs of {task.num_images} images",
            )

    for count, in_lockstep in itertools.product(counts, (True, False)):
        what = f"{backbone}, {count} a lease, {'in lockstep' if in_lockstep else 'one after the other'}"
        clock.attempt(PART, what, partial(cell, count, what, in_lockstep=in_lockstep))


def run_lease(settings: StudySettings, config: dict[str, Any], numbers: Sequence[int]) -> None:
    """Train the heads of one lease to their end.

    Raises:
        RuntimeError: one of them failed; the message is its traceback.
    """
    trials = tuple(
        LeasedTrial(trial=number, attempt=1, config=config, done_epochs=0, until_epoch=config["max_epochs"])
        for number in numbers
    )
    runs = start_lease(Lease(trials=trials).as_config(settings.as_values()))
    while any(not run.finished for run in runs):
        for report in take_turns(runs):
            if report.reason is not None:
                raise RuntimeError(report.traceback)
