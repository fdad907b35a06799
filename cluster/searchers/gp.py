"""Gaussian process: the most expected improvement under a smooth model; for few, long trials.

It learns from trials that ran to their end only, and draws a branch's own parameters at random.
"""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler

from cluster.searchers import Draw


def make_sampler(draw: Draw) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GPSampler(seed=draw.seed, n_startup_trials=draw.num_startup, warn_independent_sampling=False)
