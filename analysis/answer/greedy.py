"""Greedy ensemble selection with replacement, on the log-loss of pooled predictions (Caruana et al. 2004)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.answer.pool import LOWEST
from analysis.predictions import Array

STEPS = 25
"""Members added at most, counted with repetition: the weights are multiples of 1/25 or coarser."""

PATIENCE = 4
"""Steps without a lower loss after which the search ends."""

TIE = 1e-6
"""Difference of log-loss below which the cheaper candidate is taken: the noise of float32."""


def greedy_probabilities(own: Array, weights: Array) -> Array:
    """Choose how often each candidate counts in the mean of the probabilities: [candidates].

    The selection starts empty, adds each time what lowers the loss most, and is cut at its first lowest.

    Args:
        own: probability of each image's class, float32 [candidates, images], the cheapest candidate first.
        weights: how often each image counts, [images].
    """
    total = np.zeros(own.shape[1], dtype=np.float32)
    shares = (weights / weights.sum()).astype(np.float32)
    added = np.empty_like(own)

    def losses(size: int) -> Array:
        np.add(own, total, out=added)
        found: Array = np.log(size) - np.log(added, out=added) @ shares
        return found

    def add(index: int) -> None:
        np.add(total, own[index], out=total)

    return _search(losses, add, num_candidates=len(own))


def greedy_logits(own: Array, classes: Array, weights: Array) -> Array:
    """Choose how often each candidate counts in the mean of the log-probabilities: [candidates].

    Args:
        own: log-probability of each image's class, float32 [candidates, images], the cheapest first.
        classes: log-probabilities of all classes, or of `compact_classes`: float32 [classes, candidates,
            images].
        weights: how often each image counts, [images].
    """
    shares = (weights / weights.sum()).astype(np.float32)
    own_losses = own @ shares
    total = np.zeros((classes.shape[0], classes.shape[2]), dtype=np.float32)
    total_own = np.zeros(1, dtype=np.float32)
    added = np.empty_like(classes)

    def losses(size: int) -> Array:
        np.add(classes, total[:, None, :], out=added)
        np.multiply(added, np.float32(1 / size), out=added)
        normaliser = np.log(np.exp(added, out=added).sum(axis=0)) @ shares
        found: Array = normaliser - (own_losses + total_own) / size
        return found

    def add(index: int) -> None:
        np.add(total, classes[:, index], out=total)
        np.add(total_own, own_losses[index], out=total_own)

    return _search(losses, add, num_candidates=len(own))


def _search(losses: Callable[[int], Array], add: Callable[[int], None], *, num_candidates: int) -> Array:
    """Add candidates one by one, and cut at the first lowest loss.

    Args:
        losses: gives the loss of each candidate if it became the n-th member.
        add: makes a candidate a member.
    """
    picks: list[int] = []
    lowest, cut = np.inf, 0
    while len(picks) < STEPS and len(picks) < cut + PATIENCE:
        found = losses(len(picks) + 1)
        pick = int((found <= found.min() + TIE).argmax())
        picks.append(pick)
        add(pick)
        if found[pick] < lowest - TIE:
            lowest, cut = float(found[pick]), len(picks)
        if num_candidates == 1:
            break
    counts: Array = np.bincount(picks[:cut], minlength=num_candidates)
    return counts


def compact_classes(log_probabilities: Array, *, most: int) -> Array:
    """Keep each image's likeliest classes and join the others: float32 [classes kept, candidates, images].

    Pooling the logits of joined classes gives at least the sum of what each would have given (Hölder's
    inequality), so a loss is never understated, and overstated by less than the joined share.

    Args:
        log_probabilities: [candidates, images, classes].
        most: classes that are kept where there are more than one above it.
    """
    num_classes = log_probabilities.shape[2]
    if num_classes <= most + 1:
        every: Array = np.maximum(np.ascontiguousarray(log_probabilities.transpose(2, 0, 1)), LOWEST)
        return every
    strongest = log_probabilities.max(axis=0)
    kept = np.argpartition(-strongest, most - 1, axis=1)[:, :most]
    images = np.arange(log_probabilities.shape[1])[:, None]
    result = np.empty((most + 1, *log_probabilities.shape[:2]), dtype=np.float32)
    for number, one in enumerate(log_probabilities):
        values = one[images, kept]
        result[:most, number] = values.T
        rest = np.exp(one).sum(axis=1) - np.exp(values).sum(axis=1)
        result[most, number] = np.log(np.maximum(rest, np.exp(LOWEST)))
    joined: Array = np.maximum(result, LOWEST)
    return joined
