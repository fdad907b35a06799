"""TPE: models good and bad configurations, parameters jointly, and samples where good ones are likely."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler

from cluster.searchers import Draw


def make_sampler(draw: Draw) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # group: conditional spaces (a branch's parameters exist only there) are modelled branch by branch.
        # constant_liar: running trials count as bad, so that parallel proposals differ.
        return TPESampler(
            seed=draw.seed,
            n_startup_trials=draw.num_startup,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
