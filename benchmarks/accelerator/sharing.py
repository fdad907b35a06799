"""Images a second of several trials that train on one device at once, each in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn

from benchmarks.accelerator.study import Task, caching, epoch_batches, start_trial, train
from benchmarks.accelerator.timing import LEAST_SAMPLES, WARM_UP, Clock
from contract.messages import StudySettings
from trainables.device.accelerator import limit_memory

PART = "sharing"
START_SECONDS = 300.0
"""Most seconds until all processes have imported and built; after it the cell fails."""


def measure_sharing(
    clock: Clock, task: Task, *, backbone: str, depth: int | str, counts: Sequence[int]
) -> None:
    """Time the updates of all trials together, for each number of them; images count in a common window."""
    alone: list[float] = []
    config = task.config(backbone, depth, policy="light")

    def cell(count: int, what: str) -> None:
        rates = run_together(task.settings(share=1 / count), config, count=count, seconds=clock.seconds)
        times = ""
        if count == 1:
            alone.append(statistics.median(rates))
        elif alone:
            times = f"{statistics.median(rates) / alone[0]:.2f} times one"
        clock.keep(PART, what, rates, unit="images/s", note=times)

    for count in counts:
        what = f"{backbone}, depth {depth}, {count} at once"
        clock.attempt(PART, what, partial(cell, count, what))


def run_together(
    settings: StudySettings, config: dict[str, Any], *, count: int, seconds: float
) -> list[float]:
    """Images a second of all processes together, once for each of LEAST_SAMPLES windows of so many seconds.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed; all others are ended.
    """
    with get_context("spawn").Manager() as manager:
        barrier, answers = manager.Barrier(count), manager.list()
        arguments = (settings, config, barrier, answers, seconds)
        spawn(train_beside_others, args=arguments, nprocs=count)  # type: ignore[no-untyped-call]
        trained = list(answers)
    windows = zip(*trained, strict=True)
    return [sum(images) / seconds for images in windows]


def train_beside_others(
    number: int, settings: StudySettings, config: dict[str, Any], barrier: Any, answers: Any, seconds: float
) -> None:
    """Train epochs until all windows are over; answers with the images of each window, in parts of an epoch.

    An epoch that a window's end cuts counts in both by its time, and all train on until the last window is
    over, so that none has the device for itself while it is counted.
    """
    if settings.use_gpu:
        limit_memory(settings.gpus_per_worker)
    with caching(False):
        run = start_trial(settings, config, number=number)
    for _ in range(WARM_UP):
        train(run, epoch_batches(run))
    barrier.wait(START_SECONDS)
    begin = time.monotonic()
    counted = [0.0] * LEAST_SAMPLES
    now = begin
    while now < begin + LEAST_SAMPLES * seconds:
        began = now
        images = train(run, epoch_batches(run)).images
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        for window in range(LEAST_SAMPLES):
            start, end = begin + window * seconds, begin + (window + 1) * seconds
            inside = max(0.0, min(now, end) - max(began, start))
            counted[window] += images * inside / (now - began)
    answers.append(counted)
    barrier.wait(START_SECONDS)
