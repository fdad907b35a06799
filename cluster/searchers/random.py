"""Random search: every proposal is independent of the others."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler


def make_sampler(*, seed: int, num_startup: int) -> BaseSampler:  # noqa: ARG001
    return RandomSampler(seed=seed)
