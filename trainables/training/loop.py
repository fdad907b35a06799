"""One epoch of training, and one pass of evaluation: plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.device.memory import FittingSize
from trainables.training.metric_sums import MetricSums, Reduce
from trainables.training.optimizers import set_learning_rate
from trainables.training.schedules import Schedule
from trainables.training.updates import Forward, Updates, compute_logits, move

Batches = Iterable[tuple[Tensor, Tensor]]


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainResult:
    """What an epoch of training leaves behind."""

    sums: MetricSums
    images: int
    """On this worker."""

    seconds: float
    next_step: int
    learning_rate: float
    """The first group's, at the last update."""

    ended: bool
    """Whether the schedule's end was reached."""


@dataclass(frozen=True)
class EvaluationResult:
    """What a pass over a part of the data leaves behind."""

    sums: MetricSums
    images: int
    seconds: float
    labels: Tensor
    log_probabilities: Tensor
    """[images, classes], float32, in the order the batches came; on the CPU.

    Logarithms, since a wrong answer that the network is sure of has a probability too small for a float.
    """


def train_epoch(
    updates: Updates,
    batches: Batches,
    *,
    schedule: Schedule,
    first_step: int,
    generator: torch.Generator,
    reduce: Reduce | None = None,
) -> TrainResult:
    """Train on every batch once: one batch is one update. The caller has set the network to train mode.

    Args:
        batches: of inputs and classes, or of inputs and each class's share of every image, [B, classes].
        first_step: updates made so far in the schedule's phase.
        generator: of the CPU; all randomness of the epoch (MixUp, dropout) follows from it.

    Raises:
        Diverged: the loss is not finite.
    """
    started, optimizer = time.perf_counter(), updates.optimizer
    sums = MetricSums.zeros(updates.num_classes, confusion=False, device=updates.device)
    mixer = np.random.default_rng(draw_seed(generator))
    step, images, multiplier = first_step, 0, schedule.multiplier(first_step)
    last_loss: Tensor | None = None
    with _seeded(draw_seed(generator), updates.device):
        for inputs, targets in batches:
            if multiplier is None:
                break
            set_learning_rate(optimizer, multiplier)
            loss = updates.compute_gradients(updates.load(inputs, targets, mixer), sums)
            # The previous update's loss is read once this one's work is queued: the device never idles.
            _check_finite(last_loss, step - 1)
            last_loss = loss
            updates.apply()
            step, images = step + 1, images + len(targets)
            multiplier = schedule.multiplier(step)
    _check_finite(last_loss, step - 1)
    seconds, rate = time.perf_counter() - started, float(optimizer.param_groups[0]["lr"])
    return TrainResult(sums.reduced(reduce), images, seconds, step, rate, multiplier is None)


@torch.no_grad()
def evaluate(
    forward: Forward,
    batches: Batches,
    *,
    num_classes: int,
    device: str = "cpu",
    reduce: Reduce | None = None,
    fitting: FittingSize | None = None,
) -> EvaluationResult:
    """Loss, metrics and log-probabilities of every image. The caller has set the network to eval mode.

    Args:
        fitting: images sent through at once; default: as many as a batch has, while memory suffices.

    Raises:
        Diverged: the loss is not finite.
    """
    started, fitting = time.perf_counter(), fitting or FittingSize()
    sums = MetricSums.zeros(num_classes, confusion=True, device=device)
    # Begun with no rows: of fewer images than workers, one of them has none to look at.
    labels = [torch.empty(0, dtype=torch.int64, device=device)]
    log_probabilities = [torch.empty(0, num_classes, device=device)]
    for inputs, targets in batches:
        targets = move(targets, device)
        logits = fitting.compute(partial(compute_logits, forward), move(inputs, device))
        sums.update(logits, targets, functional.cross_entropy(logits, targets, reduction="sum"))
        labels.append(targets)
        log_probabilities.append(logits.log_softmax(dim=1))
    _check_finite(sums.totals[0], None)
    return EvaluationResult(
        sums=sums.reduced(reduce),
        images=sum(len(part) for part in labels),
        seconds=time.perf_counter() - started,
        labels=torch.cat(labels).cpu(),
        log_probabilities=torch.cat(log_probabilities).cpu(),
    )


def _check_finite(loss: Tensor | None, step: int | None) -> None:
    value = 0.0 if loss is None else float(loss)
    if not math.isfinite(value):
        where = "validation" if step is None else f"update {step}"
        raise Diverged(f"the loss at {where} is {value}")


def draw_seed(generator: torch.Generator) -> int:
    """The next of an epoch's seeds."""
    return int(torch.randint(2**62, (), generator=generator))


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seed the global generators, which dropout and stochastic depth draw from, for as long as this lasts."""
    accelerators = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=accelerators):
        # torch.manual_seed takes 0.5 ms: without a GPU it notes where it was called from, for later.
        torch.default_generator.manual_seed(seed)
        if accelerators:
            torch.cuda.manual_seed_all(seed)
        yield
