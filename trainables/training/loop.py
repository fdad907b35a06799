"""One epoch of training, one update in it, and one pass of evaluation: plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from contract.ranking_metrics import MOST_CELLS, compute_ranking
from trainables.device.accelerator import autocast
from trainables.device.memory import MEMORY_ERRORS, FittingSize, Snapshot, release_memory
from trainables.training.metric_sums import MetricSums, Reduce
from trainables.training.optimizers import add_penalty, set_learning_rate
from trainables.training.schedules import Schedule, num_batches

EVALUATION_BATCH = 128
"""Images that are looked at together where nothing is trained."""

Forward = Callable[[Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
"""Inputs, and classes [B] or each class's share of every image [B, classes]."""


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainResult:
    """Measurements of `train_epoch`."""

    sums: MetricSums
    images: int
    """Images that this worker trained on."""

    seconds: float
    next_step: int
    learning_rate: float
    """Rate of the first parameter group, the head's, at the last update."""

    ended: bool
    """True once the schedule has reached its end."""


@dataclass(frozen=True)
class EvaluationResult:
    """Measurements of `evaluate`."""

    sums: MetricSums
    images: int
    seconds: float
    labels: Tensor
    log_probabilities: Tensor
    """[images, classes], float32, in the order the batches came; on the CPU.

    Logarithms, since a wrong answer that the network is sure of has a probability too small for a float.
    """

    def joined(self, gather: Callable[[Tensor], Tensor]) -> EvaluationResult:
        """The result with the rows of all workers, which `gather` joins."""
        labels, log_probabilities = gather(self.labels[:, None])[:, 0], gather(self.log_probabilities)
        return replace(self, labels=labels, log_probabilities=log_probabilities)

    def compute(self, *, always_rank: bool = False) -> dict[str, float]:
        """Compute the metrics of validation by their names in METRICS, ranking ones where they are quick.

        Args:
            always_rank: compute those of many images and classes, too.
        """
        ranks = always_rank or self.log_probabilities.numel() <= MOST_CELLS
        ranking = compute_ranking(self.log_probabilities.numpy(), self.labels.numpy()) if ranks else {}
        return {**self.sums.compute("val"), **ranking}


def cut_batches(order: NDArray[np.int64], *, size: int, limit: int = 0) -> list[NDArray[np.int64]]:
    """Cut an epoch's positions into the batches of its updates, in order.

    Args:
        limit: most batches; 0 = all.
    """
    count = num_batches(len(order), size=size, limit=limit)
    return [order[at * size : (at + 1) * size] for at in range(count)]


def cut_evaluation(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut positions into batches for looking at images without training on them."""
    return [positions[at : at + EVALUATION_BATCH] for at in range(0, len(positions), EVALUATION_BATCH)]


class Batch(NamedTuple):
    """Images and targets of one update."""

    inputs: Tensor
    targets: Tensor
    """Classes, int64 [B], or each class's share of every image, float [B, classes]."""


@dataclass(kw_only=True)
class Updates:
    """Updates a network, batch after batch, in smaller passes where memory runs out."""

    forward: Forward
    """Inputs -> logits; inputs are images, or features of the frozen prefix."""

    optimizer: torch.optim.Optimizer
    num_classes: int
    micro_batch: FittingSize = field(default_factory=FittingSize)
    """Images of one pass; the update averages over the whole batch all the same."""

    changing: Sequence[Tensor] = ()
    """Tensors that a forward pass changes in place (batch norm's statistics), restored before another try."""

    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """Weight of each class's images in the loss; the sum is divided by the number of images."""

    gradient_clip: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._criterion = nn.CrossEntropyLoss(
            self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        self._snapshot = Snapshot(self.changing, device=self.device)
        self._has_stepped = False
        self._begun: tuple[Batch, MetricSums, Tensor] | None = None
        """The batch, the sums that count it and their totals before; kept until the first step is made."""

    def load(self, inputs: Tensor, targets: Tensor, mixer: np.random.Generator) -> Batch:
        """Move a batch to the device, and mix it: one share for the whole update, partners by permutation."""
        batch = Batch(move(inputs, self.device), move(targets, self.device))
        if self.mixup_alpha <= 0:
            return batch
        inputs, targets = batch
        share = float(mixer.beta(self.mixup_alpha, self.mixup_alpha))
        order = torch.from_numpy(mixer.permutation(len(targets))).to(inputs.device)
        if targets.dim() == 1:
            targets = functional.one_hot(targets, self.num_classes).float()
        return Batch(torch.lerp(inputs[order], inputs, share), torch.lerp(targets[order], targets, share))

    def compute_gradients(self, batch: Batch, sums: MetricSums) -> Tensor:
        """Compute the gradients of the batch's mean loss, count the batch in `sums`, and return the loss.

        Where memory runs out, all of it is repeated with half as many images at once from the same state.
        """
        self._snapshot.keep()
        counted = sums.totals.clone()
        if not self._has_stepped and not self.optimizer.state:
            self._begun = (batch, sums, counted)
        while (loss := self._attempt(batch, sums)) is None:
            release_memory()
            self._snapshot.restore()
            sums.totals.copy_(counted)
        return loss

    def apply(self) -> None:
        """Take the optimizer's step.

        The first one allocates the optimizer's state of each weight. Where that does not fit, the update is
        repeated from the same state with half as many images at once.
        """
        if self._begun is None:
            self._step()
        else:
            self._step_for_the_first_time(*self._begun)
            self._begun, self._has_stepped = None, True

    def _step_for_the_first_time(self, batch: Batch, sums: MetricSums, counted: Tensor) -> None:
        groups = self.optimizer.param_groups
        weights = [weight for group in groups for weight in group["params"]]
        kept = [weight.detach().to("cpu", copy=True) for weight in weights]
        while not self._attempt_step(tried=self.micro_batch.of(len(batch.targets))):
            with torch.no_grad():
                for weight, before in zip(weights, kept, strict=True):
                    weight.copy_(before)
            self.optimizer.state.clear()
            self.optimizer.zero_grad(set_to_none=True)
            release_memory()
            self._snapshot.restore()
            sums.totals.copy_(counted)
            self.compute_gradients(batch, sums)

    def _attempt_step(self, *, tried: int) -> bool:
        try:
            self._step()
        except MEMORY_ERRORS as error:
            if not self.micro_batch.accept(error, tried=tried):
                raise
            return False
        return True

    def _step(self) -> None:
        """Add the head's penalty, clip the gradients and take the step."""
        add_penalty(self.optimizer)
        if self.gradient_clip:
            groups = self.optimizer.param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        self.optimizer.step()

    def _attempt(self, batch: Batch, sums: MetricSums) -> Tensor | None:
        self.optimizer.zero_grad(set_to_none=True)
        tried = self.micro_batch.of(len(batch.targets))
        try:
            return self._accumulate(batch, sums, size=tried)
        except MEMORY_ERRORS as error:
            if not self.micro_batch.accept(error, tried=tried):
                raise
        except ValueError as error:  # what batch norm raises where it sees a single value
            if not self.micro_batch.is_reduced:
                raise
            raise MemoryError(
                f"not enough memory for the two images that batch norm needs: {error}"
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        return None

    def _accumulate(self, batch: Batch, sums: MetricSums, *, size: int) -> Tensor:
        count = len(batch.targets)
        total = torch.zeros((), device=batch.inputs.device)
        for inputs, targets in _split_evenly(batch, size):
            logits = compute_logits(self.forward, inputs)
            loss_sum = self._criterion(logits, targets)
            sums.update(logits.detach(), targets, loss_sum.detach())
            (loss_sum / count).backward()
            total += loss_sum.detach()
        return total / count


def _split_evenly(batch: Batch, most: int) -> Iterator[Batch]:
    """Split into micro-batches of equal size, give or take an image: a lone one has no batch statistics."""
    num_parts = math.ceil(len(batch.targets) / most)
    parts = (tensor.tensor_split(num_parts) for tensor in batch)
    return (Batch(*part) for part in zip(*parts, strict=True))


def compute_logits(forward: Forward, inputs: Tensor) -> Tensor:
    """Compute float32 logits with the network in the device's number format."""
    with autocast(inputs.device):
        logits = forward(inputs)
    return logits.float()


def move(tensor: Tensor, device: str) -> Tensor:
    """Copy to the device; images [N, 3, H, W] get the channels-last layout of a GPU's convolutions."""
    if device.startswith("cuda") and tensor.dim() == 4:
        return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
    return tensor.to(device, non_blocking=True)


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
        first_step: updates made so far in the phase of the schedule.
        generator: on the CPU; all randomness of the epoch (MixUp, dropout) follows from it.

    Raises:
        Diverged: the loss is not finite.
    """
    started, optimizer = time.perf_counter(), updates.optimizer
    sums = MetricSums.zeros(updates.num_classes, by_class=False, device=updates.device)
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
    """Compute loss, metrics and log-probabilities. The caller has set the network to eval mode.

    Args:
        fitting: images of one pass; None = the batch, halved where memory runs out.

    Raises:
        Diverged: the loss is not finite.
    """
    started, fitting = time.perf_counter(), fitting or FittingSize()
    sums = MetricSums.zeros(num_classes, by_class=True, device=device)
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
    """Draw the next of an epoch's seeds."""
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
