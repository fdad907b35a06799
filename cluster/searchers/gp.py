"""Gaussian process: proposes the largest expected improvement; suits studies of few, long trials.

Optuna's sampler learns from complete trials only, and draws the parameters of a conditional branch at random.
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
