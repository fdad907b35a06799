"""Guided search: proposals around recipes and the best trials so far as well as uniform ones.

Where a proposal comes from shifts with the evidence: recipes lose their share to the best trials as those turn
out better (PriorBand, Mallik et al. 2023, arXiv 2306.12370), and a share of uniform draws stays, so that a bad
recipe costs only time. Of several such candidates the one is proposed that a Gaussian process expects to
improve most on the best trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cluster.searchers import Draw
from cluster.searchers.qmc import spread

WIDTH = 0.2
"""Standard deviation of a step away from a known configuration, as a share of a hyperparameter's range."""
CHANGED = 0.5
"""Probability that a hyperparameter of a known configuration is changed (PriorBand's value)."""
UNIFORM = 0.25
"""Share of uniform proposals."""
BEST = 3
"""Number of best trials that proposals lie around."""
CANDIDATES = 64

_HAS_VALUE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass(frozen=True)
class Seen:
    """A trial that has reported: its parameters and its score, higher being better."""

    trial: FrozenTrial
    score: float
    is_given: bool


class GuidedSampler(BaseSampler):
    """Proposes one configuration; all randomness follows from the draw, all else from the study."""

    def __init__(
        self,
        draw: Draw,
        *,
        model: bool = True,
        uniform: float = UNIFORM,
        width: float = WIDTH,
        changed: float = CHANGED,
    ) -> None:
        self._seed, self._model = draw.seed, model
        self._uniform, self._width, self._changed = uniform, width, changed
        self._planned: dict[int, Plan] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number not in self._planned:
            self._planned = {trial.number: self._plan(study, trial)}
        return self._planned[trial.number].value(param_name, param_distribution)

    def _plan(self, study: Study, trial: FrozenTrial) -> Plan:
        rng = np.random.default_rng(self._seed)
        seen = _seen(study, trial)
        anchors = _anchors(seen)
        if not anchors:
            return Plan({}, rng, self._width, self._changed)
        if not self._model:
            return self._draw_plan(anchors, rng)
        space = {name: d for one in seen for name, d in one.trial.distributions.items()}
        plans = [self._draw_plan(anchors, rng) for _ in range(CANDIDATES)]
        wholes = [plan.fill(space) for plan in plans]
        chosen = int(np.argmax(_improvement(seen, wholes, space)))
        return Plan(wholes[chosen], rng, self._width, 0.0)

    def _draw_plan(
        self, anchors: Sequence[tuple[float, Mapping[str, Any]]], rng: np.random.Generator
    ) -> Plan:
        if rng.random() < self._uniform:
            return Plan({}, rng, self._width, 1.0)
        weights = np.array([weight for weight, _ in anchors])
        _, params = anchors[rng.choice(len(anchors), p=weights / weights.sum())]
        return Plan(params, rng, self._width, self._changed)


@dataclass
class Plan:
    """Values near a known configuration; uniform ones where it has none."""

    anchor: Mapping[str, Any]
    rng: np.random.Generator
    width: float
    changed: float

    def fill(self, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        return {name: self.value(name, distribution) for name, distribution in space.items()}

    def value(self, name: str, distribution: BaseDistribution) -> Any:
        """Draw the value of a hyperparameter."""
        known = self.anchor.get(name)
        if known is None or not distribution._contains(distribution.to_internal_repr(known)):
            return spread(distribution, self.rng.random())
        if self.rng.random() >= self.changed:
            return known
        if isinstance(distribution, CategoricalDistribution):
            return self._step(known, distribution)
        place = to_unit(known, distribution) + self.width * self.rng.standard_normal()
        # Reflected at the ends, so that they are not proposed more often than others.
        place = abs(place) % 2
        return spread(distribution, min(2 - place if place > 1 else place, 1.0))

    def _step(self, known: Any, distribution: CategoricalDistribution) -> Any:
        choices = distribution.choices
        if is_ordered(choices):
            at = choices.index(known) + int(self.rng.choice((-1, 1)))
            return choices[at] if 0 <= at < len(choices) else known
        return choices[self.rng.integers(len(choices))]


def is_ordered(choices: Sequence[Any]) -> bool:
    """Whether choices are numbers in ascending order, of which neighbours are alike; "all" is the deepest."""
    numbers = [math.inf if choice == "all" else choice for choice in choices]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return False
    return len(numbers) > 2 and numbers == sorted(numbers)


def to_unit(value: Any, distribution: BaseDistribution) -> float:
    """Place of a value in its range, 0 to 1, on its own scale."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return 0.5
    if distribution.log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _seen(study: Study, trial: FrozenTrial) -> list[Seen]:
    sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
    found = []
    for other in study._get_trials(deepcopy=False, states=_HAS_VALUE, use_cache=False):
        if other.number == trial.number:
            continue
        if other.state == TrialState.COMPLETE and other.values:
            score = sign * other.values[0]
        elif other.intermediate_values:
            score = sign * other.intermediate_values[max(other.intermediate_values)]
        else:
            score = math.nan
        found.append(Seen(other, score, "fixed_params" in other.system_attrs))
    return found


def _anchors(seen: Sequence[Seen]) -> list[tuple[float, Mapping[str, Any]]]:
    """(weight, parameters) of the configurations that proposals lie around."""
    given = [one for one in seen if one.is_given]
    best = sorted((one for one in seen if not math.isnan(one.score)), key=lambda one: -one.score)[:BEST]
    if not best:
        return [(1.0, one.trial.params) for one in given]
    top = best[0].score
    spread_ = max(1e-3, float(np.std([one.score for one in best])))
    weighted = [(math.exp((one.score - top) / (2 * spread_)), one.trial.params) for one in best]
    rest = [one for one in given if all(one is not other for other in best)]
    num = sum(not one.is_given for one in seen)
    return weighted + [(1.0 / (1 + num), one.trial.params) for one in rest]


def _improvement(
    seen: Sequence[Seen], candidates: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]
) -> NDArray[np.float64]:
    """Expected improvement of each candidate on the best trial, by a Gaussian process with a fixed kernel."""
    known = [one for one in seen if not math.isnan(one.score)]
    scores = np.array([one.score for one in known])
    # Ranks decide: a diverged trial must not flatten the differences between good ones.
    low = np.quantile(scores, 0.25) if len(scores) > 4 else scores.min()
    clipped = np.maximum(scores, low - 1.5 * max(scores.max() - low, 1e-3))
    mean, scale = clipped.mean(), max(float(clipped.std()), 1e-3)
    targets = (clipped - mean) / scale
    points = np.array([_encode(one.trial.params, space) for one in known])
    running = [one for one in seen if math.isnan(one.score)]
    wanted = np.array([_encode(values, space) for values in candidates])
    if running:  # believed to reach what the model expects of them, so that proposals in parallel differ
        pending = np.array([_encode(one.trial.params, space) for one in running])
        expected, _ = _posterior(points, targets, pending)
        points, targets = np.concatenate([points, pending]), np.concatenate([targets, expected])
    expected, deviation = _posterior(points, targets, wanted)
    best = float(targets.max())
    z = (expected - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return np.asarray((expected - best) * below + deviation * density)


NOISE = 0.15


def _posterior(
    points: NDArray[np.float64], targets: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gram = _kernel(points, points) + NOISE * np.eye(len(points))
    cross = _kernel(wanted, points)
    solved = np.linalg.solve(gram, np.column_stack([targets, cross.T]))
    expected = cross @ solved[:, 0]
    variance = 1.0 - np.einsum("ij,ji->i", cross, solved[:, 1:])
    return expected, np.sqrt(np.maximum(variance, 1e-9))


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matern 5/2."""
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)) * math.sqrt(5)
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


LENGTH = 0.5


def _encode(values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> list[float]:
    return [place / LENGTH for name, one in space.items() for place in _places(values.get(name), one)]


def _places(value: Any, distribution: BaseDistribution) -> Iterator[float]:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        if is_ordered(choices):
            yield 0.5 if value is None else choices.index(value) / (len(choices) - 1)
        elif len(choices) > 1:
            yield from (0.35 * (choice == value) for choice in choices)
    else:
        yield 0.5 if value is None else to_unit(value, distribution)


def make_sampler(draw: Draw) -> BaseSampler:
    return GuidedSampler(draw)
