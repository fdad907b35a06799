"""TPE: models good and bad configurations, parameters jointly, and samples where good ones are likely."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Container, Sequence
from typing import Any, cast

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cluster.searchers import Draw

MOST_TRIALS = 2000
"""A proposal's cost grows with the trials it is made from: 30 ms for 1,000, 0.3 s for 10,000."""
MOST_BEST = 100
"""More than the 25 that Optuna models as good at most."""
_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def make_sampler(draw: Draw) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # group: conditional spaces (a branch's parameters exist only there) are modelled branch by branch.
        # constant_liar: running trials count as bad, so that parallel proposals differ.
        return _Sampler(
            seed=draw.seed,
            n_startup_trials=draw.num_startup,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


class _Sampler(TPESampler):
    """Optuna's, which is given a part of a long study."""

    _seen: tuple[int, Study] | None = None
    """The part, and the trial that it was made for."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._part_of(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._part_of(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        part = self._part_of(study, trial)
        return super().sample_independent(part, trial, param_name, param_distribution)

    def _part_of(self, study: Study, trial: FrozenTrial) -> Study:
        if self._seen is None or self._seen[0] != trial.number:
            self._seen = (trial.number, shorten(study))
        return self._seen[1]


def shorten(study: Study, *, most: int = MOST_TRIALS) -> Study:
    """A study of more than `most` ended trials without some of those that are not among the best.

    What Optuna models as good stays as it is; what it models as bad is every so-many-th of the rest, which
    has the shape of all. Several metrics have no such order: there the study stays whole.
    """
    trials = study._get_trials(deepcopy=False, states=_SEEN, use_cache=False)
    if len(trials) <= most or study._is_multi_objective():
        return study
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and not trial.constraints]
    best = heapq.nsmallest(MOST_BEST, complete, key=lambda trial: sign * cast(float, trial.value))
    if len(best) < MOST_BEST:
        return study  # pruned ones may be modelled as good
    kept = {trial.number for trial in best}
    rest = [t for t in trials if t.number not in kept and t.state != TrialState.RUNNING]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    places = range(most - MOST_BEST)
    part = best + running + [rest[len(rest) * place // len(places)] for place in places]
    return cast(Study, _Part(study, sorted(part, key=lambda trial: trial.number)))


class _Part:
    """A study of which only some of the trials are seen."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self._whole, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def _get_trials(self, *, states: Container[TrialState], **_: Any) -> list[FrozenTrial]:
        return [trial for trial in self._trials if trial.state in states]
