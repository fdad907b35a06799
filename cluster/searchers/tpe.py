"""TPE: models the densities of good and bad configurations and samples where good ones are likely."""

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
"""Most trials that a proposal is made from: it takes 30 ms from 1,000 and 0.3 s from 10,000."""
MOST_BEST = 100
"""Number of best trials that are always among them; Optuna models at most 25 as good."""
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
    """Optuna's sampler, shown a shortened study where the study is long."""

    _shown: tuple[int, Study] | None = None
    """Number of the trial that is being proposed, and the study that was made for it."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._shorten(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._shorten(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        shown = self._shorten(study, trial)
        return super().sample_independent(shown, trial, param_name, param_distribution)

    def _shorten(self, study: Study, trial: FrozenTrial) -> Study:
        if self._shown is None or self._shown[0] != trial.number:
            self._shown = (trial.number, shorten(study))
        return self._shown[1]


def shorten(study: Study, *, most: int = MOST_TRIALS) -> Study:
    """A view of the study with about `most` trials: the best, the running, and evenly spaced others.

    The density of good configurations stays as it is; that of bad ones comes from a sample with the same
    shape. A study of several metrics has no such order and stays whole.
    """
    trials = study._get_trials(deepcopy=False, states=_SEEN, use_cache=False)
    if len(trials) <= most or study._is_multi_objective():
        return study
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and not trial.constraints]
    best = heapq.nsmallest(MOST_BEST, complete, key=lambda trial: sign * cast(float, trial.value))
    if len(best) < MOST_BEST:
        return study  # Optuna may model pruned ones as good
    kept = {trial.number for trial in best}
    rest = [t for t in trials if t.number not in kept and t.state != TrialState.RUNNING]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    places = range(most - MOST_BEST)
    shown = best + running + [rest[len(rest) * place // len(places)] for place in places]
    return cast(Study, _ShortStudy(study, sorted(shown, key=lambda trial: trial.number)))


class _ShortStudy:
    """A study that shows only some of its trials to a sampler."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self._whole, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def _get_trials(self, *, states: Container[TrialState], **_: Any) -> list[FrozenTrial]:
        return [trial for trial in self._trials if trial.state in states]
