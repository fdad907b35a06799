"""Images a second of whole epochs by where their batches come from: the device's memory, or the host's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.accelerator.limits import Limits
from benchmarks.accelerator.study import Task, caching, epoch_batches, start_trial, train
from benchmarks.accelerator.timing import Clock
from trainables.activations import inputs
from trainables.data.views import storage_size
from trainables.run import TrialRun

PART = "batches"


def measure_batches(
    clock: Clock, limits: Limits, task: Task, *, backbone: str, depth: int | str, on_activations: bool
) -> None:
    """Time a trial's epochs on cached activations or on images, as its batches are made three ways.

    Today every batch is gathered in the host's memory, copied, and made while the one before is in use.
    """
    source = "activations" if on_activations else "images"
    kind = f"{backbone}, depth {depth}, {source}"

    def cells() -> None:
        chosen = _is_cached_by_choice(task, backbone, depth) if on_activations else False
        with caching(on_activations):
            run = start_trial(task.settings(), task.config(backbone, depth, policy="light"))
        note = "the cost model caches them" if chosen else "the cost model does not cache them"
        _time_epochs(clock, limits, run, kind, note=note if on_activations else "")

    clock.attempt(PART, kind, cells)


def _is_cached_by_choice(task: Task, backbone: str, depth: int | str) -> bool:
    """Whether a study of 16 such trials would cache the activations on this machine."""
    run = start_trial(task.settings(num_trials=16), task.config(backbone, depth, policy="light"))
    return run.inputs["train"].cache is not None


def _time_epochs(clock: Clock, limits: Limits, run: TrialRun, kind: str, *, note: str) -> None:
    resident = list(epoch_batches(run))
    amount, copied = len(run.splits["train"]), _copied_bytes(run, resident)
    ways = {
        "resident": lambda: train(run, resident),
        "copied, one ahead (trials)": lambda: train(run, epoch_batches(run)),
        "copied at use": lambda: _train_at_use(run),
    }
    for way, work in ways.items():
        is_copied = way != "resident"
        clock.rate(
            PART,
            f"{kind}, {way}",
            work,
            amount=amount,
            unit="images/s",
            cost=copied if is_copied else 0.0,
            limit=limits.of_copies() if is_copied else None,
            note=note if is_copied else "views and activations made before",
        )


def _train_at_use(run: TrialRun) -> None:
    def at_use(batches: Iterator[tuple[Tensor, Tensor]], _: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        return batches

    with patch.object(inputs, "one_ahead", at_use):
        train(run, epoch_batches(run))


def _copied_bytes(run: TrialRun, batches: list[tuple[Tensor, Tensor]]) -> int:
    """Bytes that go to the device for an image: its activations, or the stored square in bytes."""
    first = batches[0][0]
    if run.inputs["train"].cache is not None:
        return first.element_size() * math.prod(first.shape[1:])
    return 3 * storage_size(run.settings.image_size, run.fit) ** 2
