"""Quasi-random search: a scrambled Sobol sequence, which covers the space more evenly than random draws.

The proposal's number selects the point. Optuna's own sampler counts how often it was asked instead, so that a
killed driver would skip a point.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from cluster.searchers import Draw

NUM_DIMENSIONS = 64
"""Dimensions of the sequence; further hyperparameters are drawn at random."""


class SobolSampler(BaseSampler):
    """Proposes one point of the sequence; hyperparameters take dimensions in order of first appearance."""

    def __init__(self, draw: Draw) -> None:
        engine = qmc.Sobol(NUM_DIMENSIONS, scramble=True, rng=np.random.default_rng(draw.study_seed))
        if draw.index:
            engine.fast_forward(draw.index)
        self._point = engine.random(1)[0]
        self._random = RandomSampler(seed=draw.seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        names: dict[str, None] = {}
        for earlier in study.get_trials(deepcopy=False):
            if earlier.number < trial.number:
                names |= dict.fromkeys(earlier.params)
        names |= dict.fromkeys([*trial.params, param_name])
        dimension = list(names).index(param_name)
        if dimension >= NUM_DIMENSIONS:
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        return spread(param_distribution, float(self._point[dimension]))


def spread(distribution: BaseDistribution, share: float) -> Any:
    """The value at a quantile `share` of the distribution: 0 is its low end, 1 its high end."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[
            min(int(share * len(distribution.choices)), len(distribution.choices) - 1)
        ]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    is_int, step = isinstance(distribution, IntDistribution), distribution.step
    if step is not None and not distribution.log:
        num = round((high - low) / step) + 1
        value = low + step * min(int(share * num), num - 1)
    elif distribution.log:
        margin = 0.5 if is_int else 0.0
        value = math.exp(math.log(low - margin) + share * (math.log(high + margin) - math.log(low - margin)))
    else:
        value = low + share * (high - low)
    value = min(max(value, low), high)
    return round(value) if is_int else value


def make_sampler(draw: Draw) -> BaseSampler:
    return SobolSampler(draw)
