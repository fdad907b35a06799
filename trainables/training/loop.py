"""One epoch of training, and one pass of evaluation: plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.training.metrics import MetricSums, Reduce
from trainables.training.optimizers import set_learning_rate
from trainables.training.schedules import Schedule

Forward = Callable[[Tensor], Tensor]
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
    probabilities: Tensor
    """[images, classes], float16, in the order the batches came; on the CPU."""


def train_epoch(
    forward: Forward,
    batches: Batches,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    first_step: int,
    num_classes: int,
    generator: torch.Generator,
    micro_batch_size: int | None = None,
    mixup_alpha: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    gradient_clip: float = 0.0,
    device: str = "cpu",
    reduce: Reduce | None = None,
) -> TrainResult:
    """Train on every batch once: one batch is one update. The caller has set the network to train mode.

    Args:
        forward: inputs -> logits; the inputs are whatever it takes, images or a frozen prefix's features.
        batches: of inputs and classes, or of inputs and each class's share of every image, [B, classes].
        first_step: updates made so far in the schedule's phase.
        generator: of the CPU; all randomness of the epoch (MixUp, dropout) follows from it.
        micro_batch_size: images sent through at once; the update still averages over the whole batch.
        class_weights: what an image of each class counts in the loss; the sum is divided by the images.
        reduce: sums a tensor over the workers.

    Raises:
        Diverged: the loss is not finite.
    """
    started = time.perf_counter()
    sums = MetricSums.zeros(num_classes, confusion=False, device=device)
    mixer = np.random.default_rng(_draw_seed(generator))
    step, images, multiplier = first_step, 0, schedule.multiplier(first_step)
    last_loss: Tensor | None = None
    criterion = nn.CrossEntropyLoss(class_weights, reduction="sum", label_smoothing=label_smoothing)
    with _seeded(_draw_seed(generator), device):
        for inputs, targets in batches:
            if multiplier is None:
                break
            set_learning_rate(optimizer, multiplier)
            optimizer.zero_grad(set_to_none=True)
            batch = _Batch(_move(inputs, device), _move(targets, device))
            batch = _mix(batch, alpha=mixup_alpha, random=mixer, num_classes=num_classes)
            loss = _accumulate(forward, batch, sums, size=micro_batch_size, loss=criterion)
            # The previous update's loss is read once this one's work is queued: the device never idles.
            _check_finite(last_loss, step - 1)
            last_loss = loss
            _clip(optimizer, gradient_clip)
            optimizer.step()
            step, images = step + 1, images + len(targets)
            multiplier = schedule.multiplier(step)
    _check_finite(last_loss, step - 1)
    return TrainResult(
        sums=sums.reduced(reduce),
        images=images,
        seconds=time.perf_counter() - started,
        next_step=step,
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        ended=multiplier is None,
    )


@torch.no_grad()
def evaluate(
    forward: Forward,
    batches: Batches,
    *,
    num_classes: int,
    device: str = "cpu",
    reduce: Reduce | None = None,
) -> EvaluationResult:
    """Loss, metrics and probabilities of every image. The caller has set the network to eval mode.

    Raises:
        Diverged: the loss is not finite.
    """
    started = time.perf_counter()
    sums = MetricSums.zeros(num_classes, confusion=True, device=device)
    labels: list[Tensor] = []
    probabilities: list[Tensor] = []
    for inputs, targets in batches:
        batch = _Batch(_move(inputs, device), _move(targets, device))
        logits = _logits(forward, batch.inputs)
        sums.update(logits, batch.targets, functional.cross_entropy(logits, batch.targets, reduction="sum"))
        labels.append(batch.targets)
        probabilities.append(logits.softmax(dim=1).half())
    _check_finite(sums.totals[0], None)
    return EvaluationResult(
        sums=sums.reduced(reduce),
        images=sum(len(part) for part in labels),
        seconds=time.perf_counter() - started,
        labels=torch.cat(labels).cpu(),
        probabilities=torch.cat(probabilities).cpu(),
    )


class _Batch(NamedTuple):
    """The images of an update."""

    inputs: Tensor
    targets: Tensor
    """Classes, int64 [B], or each class's share of every image, float [B, classes]."""


def _move(tensor: Tensor, device: str) -> Tensor:
    if device.startswith("cuda") and tensor.dim() == 4:
        return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
    return tensor.to(device, non_blocking=True)


def _mix(batch: _Batch, *, alpha: float, random: np.random.Generator, num_classes: int) -> _Batch:
    """MixUp with one share for the whole update and partners by permutation."""
    if alpha <= 0:
        return batch
    inputs, targets = batch
    share = float(random.beta(alpha, alpha))
    order = torch.from_numpy(random.permutation(len(targets))).to(inputs.device)
    if targets.dim() == 1:
        targets = functional.one_hot(targets, num_classes).float()
    return _Batch(torch.lerp(inputs[order], inputs, share), torch.lerp(targets[order], targets, share))


def _logits(forward: Forward, inputs: Tensor) -> Tensor:
    """In bfloat16 on an accelerator, where it costs half as much; the loss is always computed in float32."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=inputs.is_cuda):
        logits = forward(inputs)
    return logits.float()


def _accumulate(
    forward: Forward,
    batch: _Batch,
    sums: MetricSums,
    *,
    size: int | None,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Gradients of the mean loss over the batch, in parts of `size` images; returns the mean loss."""
    count = len(batch.targets)
    total = torch.zeros((), device=batch.inputs.device)
    for start in range(0, count, size or count):
        part = slice(start, start + (size or count))
        logits = _logits(forward, batch.inputs[part])
        loss_sum = loss(logits, batch.targets[part])
        sums.update(logits.detach(), batch.targets[part], loss_sum.detach())
        (loss_sum / count).backward()  # type: ignore[no-untyped-call]
        total += loss_sum.detach()
    return total / count


def _clip(optimizer: torch.optim.Optimizer, largest_norm: float) -> None:
    if largest_norm:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, largest_norm)


def _check_finite(loss: Tensor | None, step: int | None) -> None:
    value = 0.0 if loss is None else float(loss)
    if not math.isfinite(value):
        where = "validation" if step is None else f"update {step}"
        raise Diverged(f"the loss at {where} is {value}")


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seed the global generators, which dropout and stochastic depth draw from, for as long as this lasts."""
    accelerators = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=accelerators):
        torch.manual_seed(seed)
        yield
