"""Answers to classes of unequal size: weights in the loss, and epochs that show all classes equally often."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

EFFECTIVE_BETA = 0.999
"""Beta of the effective number of images, one of the published values: https://arxiv.org/abs/1901.05555."""

Labels = NDArray[np.int64]


def class_weights(
    labels: Labels, num_classes: int, how: Literal["none", "balanced", "effective"]
) -> torch.Tensor | None:
    """Weight of each class's images in the loss, float32 [classes]; None where all count the same.

    balanced: by the inverse of its class's images. effective: by the inverse of their effective number,
    which grows ever slower than the images do. Averaged over the images both are 1, so that a learning rate
    means the same with and without. A class without an image weighs nothing.
    """
    if how == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    numbers = counts if how == "balanced" else (1 - EFFECTIVE_BETA**counts) / (1 - EFFECTIVE_BETA)
    weights = np.divide(1, numbers, out=np.zeros(num_classes), where=counts > 0)
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def draw_order(labels: Labels, sampler: Literal["shuffle", "balanced"], generator: torch.Generator) -> Labels:
    """Draw an epoch's positions in random order."""
    if sampler == "balanced":
        return balanced_order(labels, generator)
    order: Labels = torch.randperm(len(labels), generator=generator).numpy()
    return order


def balanced_order(labels: Labels, generator: torch.Generator) -> Labels:
    """Draw an epoch's positions: as many as there are images, every class equally often, in random order.

    A small class repeats its images only once all were used, a large one leaves some out.
    """
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    # Which classes get one image more than the others, where the images cannot be shared out evenly.
    lucky = torch.randperm(len(by_class), generator=generator).tolist()
    even, rest = divmod(len(labels), len(by_class))
    chosen = [
        _repeat_shuffled(members, even + (rank < rest), generator)
        for members, rank in zip(by_class, lucky, strict=True)
    ]
    order: Labels = np.concatenate(chosen)
    return order[torch.randperm(len(order), generator=generator).numpy()]


def _repeat_shuffled(members: Labels, num: int, generator: torch.Generator) -> Labels:
    rounds = -(-num // len(members))
    shuffled = [members[torch.randperm(len(members), generator=generator).numpy()] for _ in range(rounds)]
    repeated: Labels = np.concatenate(shuffled)[:num] if shuffled else members[:0]
    return repeated
