"""One update: a batch becomes gradients, in parts where it must, and the optimizer takes a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.device.accelerator import autocast
from trainables.device.memory import MEMORY_ERRORS, FittingSize, Undo, release_memory
from trainables.training.metric_sums import MetricSums
from trainables.training.optimizers import add_penalty

Forward = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """The images of an update."""

    inputs: Tensor
    targets: Tensor
    """Classes, int64 [B], or each class's share of every image, float [B, classes]."""


@dataclass(kw_only=True)
class Updates:
    """How a network is updated, batch after batch."""

    forward: Forward
    """Inputs -> logits; the inputs are whatever it takes, images or a frozen prefix's features."""

    optimizer: torch.optim.Optimizer
    num_classes: int
    micro_batch: FittingSize = field(default_factory=FittingSize)
    """Images sent through at once; the update still averages over the whole batch."""

    changing: Sequence[Tensor] = ()
    """What a forward pass changes in place, batch norm's statistics: put back where an update is redone."""

    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """What an image of each class counts in the loss; the sum is divided by the images."""

    gradient_clip: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._criterion = nn.CrossEntropyLoss(
            self.class_weights, reduction="sum", label_smoothing=self.label_smoothing
        )
        self._undo = Undo(self.changing, device=self.device)
        self._has_stepped = False
        self._begun: tuple[Batch, MetricSums, Tensor] | None = None
        """Ahead of the first step: the batch, the sums that count it, and what they were before."""

    def load(self, inputs: Tensor, targets: Tensor, mixer: np.random.Generator) -> Batch:
        """Onto the device, and by MixUp with one share for the whole update and partners by permutation."""
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
        """Gradients of the mean loss over the batch, and that loss; the batch is counted in `sums`.

        Where memory runs out, all of it again with half as many images at once, as if nothing had happened.
        """
        self._undo.keep()
        counted = sums.totals.clone()
        if not self._has_stepped and not self.optimizer.state:
            self._begun = (batch, sums, counted)
        while (loss := self._attempt(batch, sums)) is None:
            release_memory()
            self._undo.restore()
            sums.totals.copy_(counted)
        return loss

    def apply(self) -> None:
        """The optimizer's step along the gradients.

        The first one allocates what the optimizer remembers of each weight. Where that does not fit, the
        update is made again, as if nothing had happened, from half as many images at once.
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
            self._undo.restore()
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
        """Take the optimizer's step along the gradients of the loss and of the penalty on the head."""
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
    """In parts of equal size, within one image: a single image left over would have no batch statistics."""
    num_parts = math.ceil(len(batch.targets) / most)
    parts = (tensor.tensor_split(num_parts) for tensor in batch)
    return (Batch(*part) for part in zip(*parts, strict=True))


def compute_logits(forward: Forward, inputs: Tensor) -> Tensor:
    """In the device's number format, half as long where a GPU has bfloat16; the logits are float32 again."""
    with autocast(inputs.device):
        logits = forward(inputs)
    return logits.float()


def move(tensor: Tensor, device: str) -> Tensor:
    if device.startswith("cuda") and tensor.dim() == 4:
        return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
    return tensor.to(device, non_blocking=True)
