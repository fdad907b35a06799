"""The one epoch of nearest neighbours: the head stores the training images and is tested on each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from trainables.device.memory import FittingSize
from trainables.model.heads import NeighbourHead
from trainables.training.loop import Batches, Forward, TrainResult, evaluate
from trainables.training.metric_sums import Reduce


@torch.no_grad()
def fit_neighbours(
    head: NeighbourHead,
    features: Callable[[Tensor], Tensor],
    everything: Batches,
    *,
    forward: Forward,
    share: Batches,
    num_classes: int,
    device: str,
    reduce: Reduce | None,
) -> TrainResult:
    """Store the training images in the head, and count how often an image's neighbours are right about it.

    Args:
        features: inputs -> what the head takes.
        everything: all training images, the same on every worker.
        share: those of them that this worker tests.
    """
    started = time.perf_counter()
    fitting = FittingSize()
    rows = [(fitting.compute(features, inputs.to(device)).float(), targets) for inputs, targets in everything]
    head.remember(torch.cat([part for part, _ in rows]), torch.cat([targets for _, targets in rows]))
    head.train()
    tested = evaluate(forward, share, num_classes=num_classes, device=device, reduce=reduce)
    return TrainResult(
        sums=replace(tested.sums, by_class=None),
        images=tested.images,
        seconds=time.perf_counter() - started,
        next_step=0,
        learning_rate=0.0,
        ended=True,
    )
