"""Random search: every proposal is independent of the others."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from cluster.searchers import Draw


def make_sampler(draw: Draw) -> BaseSampler:
    return RandomSampler(seed=draw.seed)
