"""Pools of candidates for tests of the answer: written by hand, or drawn from the simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.answer.pool import Candidate, Pool
from analysis.predictions import Array
from contract.answer import MemberRef


def make_candidate(number: int, *, prefix: str = "", cost: float = 1.0, selectable: bool = True) -> Candidate:
    """A trial of that number."""
    return Candidate(MemberRef("trial", number), f"trial {number}", "resnet18", prefix, cost, selectable)


def make_pool_of(
    chances: Sequence[Array],
    *,
    candidates: Sequence[Candidate] | None = None,
    classes: int = 3,
    groups: Array | None = None,
) -> Pool:
    """A pool whose candidates give the right class these probabilities [images], the next class the rest."""
    size = len(chances[0])
    labels = np.arange(size) % classes
    values = np.full((len(chances), size, classes), 1e-6)
    images = np.arange(size)
    for number, chance in enumerate(chances):
        values[number, images, labels] = chance
        values[number, images, (labels + 1) % classes] = 1 - np.asarray(chance)
    return Pool(
        candidates=tuple(candidates or [make_candidate(number) for number in range(len(chances))]),
        log_probabilities=np.log(values / values.sum(axis=2, keepdims=True)).astype(np.float32),
        labels=labels,
        groups=np.arange(size) if groups is None else groups,
        ids=images,
    )


def draw_chances(size: int, accuracy: float, *, seed: int) -> Array:
    """Probabilities of the right class that are above a half for about this share of the images."""
    generator = np.random.default_rng(seed)
    right = generator.random(size) < accuracy
    chances: Array = np.where(right, generator.uniform(0.7, 0.95, size), generator.uniform(0.1, 0.3, size))
    return chances
