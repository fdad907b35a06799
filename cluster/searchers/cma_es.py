"""CMA-ES: moves a normal distribution towards better configurations; for numeric spaces without conditions.

The distribution is built anew from the study's trials at every proposal, a generation after the other:
nothing is kept that a kill could lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cmaes import CMA  # type: ignore[import-untyped]
from optuna import Trial
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cluster.searchers import Draw
from cluster.study.space_probe import probe

SIGMA = 1 / 6
"""First standard deviation as a share of a hyperparameter's range, as in Optuna's own."""


class CmaEsSampler(BaseSampler):
    """One proposal of the evolution strategy that the ended trials, in order, lead to."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._random = RandomSampler(seed=draw.seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space = intersection_search_space(study.get_trials(deepcopy=False), include_pruned=True)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        ended = [told for told in study.get_trials(deepcopy=False) if _value(study, told) is not None]
        if not search_space or len(ended) < self._draw.num_startup:
            return {}
        transform = _SearchSpaceTransform(search_space, transform_step=True, transform_0_1=True)
        num = len(transform.bounds)
        strategy = CMA(
            mean=np.full(num, 0.5),
            sigma=SIGMA,
            bounds=np.tile([0.0, 1.0], (num, 1)),
            seed=self._draw.study_seed,
        )
        size = strategy.population_size
        for start in range(0, len(ended) - size + 1, size):
            told = ended[start : start + size]
            strategy.tell([(_point(transform, one), float(_value(study, one) or 0.0)) for one in told])
        strategy._rng = np.random.RandomState(self._draw.seed)
        return transform.untransform(strategy.ask())

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _point(transform: _SearchSpaceTransform, trial: FrozenTrial) -> np.ndarray[Any, Any]:
    point: np.ndarray[Any, Any] = np.clip(transform.transform(trial.params), 0.0, 1.0)
    return point


def _value(study: Study, trial: FrozenTrial) -> float | None:
    """Lower is better: what a trial came to, a pruned one by its last epoch; None where that is no number."""
    if trial.state == TrialState.COMPLETE:
        value = trial.value
    elif trial.state == TrialState.PRUNED and trial.last_step is not None:
        value = trial.intermediate_values[trial.last_step]
    else:
        return None
    if value is None or not np.isfinite(value):
        return None
    return -value if study.direction == StudyDirection.MAXIMIZE else value


def make_sampler(draw: Draw) -> BaseSampler:
    return CmaEsSampler(draw)


def check(space: Callable[[Trial], Mapping[str, Any]], metrics: tuple[str, ...]) -> None:
    """Refuse what CMA-ES has no notion of.

    Raises:
        ValueError: choices, conditions, or several metrics.
    """
    way_out = "use --searcher tpe, or another space"
    if len(metrics) > 1:
        raise ValueError("--searcher cma_es knows one metric only: use --searcher tpe")
    trials = probe(space)
    found = {name: kind for trial in trials for name, kind in trial.distributions.items()}
    conditional = [name for name in found if not all(name in trial.distributions for trial in trials)]
    if conditional:
        raise ValueError(
            f"--searcher cma_es needs a space without conditions, but {', '.join(conditional)} "
            f"are not always searched: {way_out}"
        )
    choices = [
        n for n, kind in found.items() if isinstance(kind, CategoricalDistribution) and not kind.single()
    ]
    if choices:
        raise ValueError(
            f"--searcher cma_es needs numbers only, but {', '.join(choices)} are choices: {way_out}"
        )
