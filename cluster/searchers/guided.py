"""Guided search: proposals around recipes and the best trials so far as well as uniform ones.

Half of the candidates are uniform draws, so that a bad recipe costs only time; the others change some
values of a recipe or of one of the best trials, and recipes lose their share to those as trials come in
(after PriorBand, Mallik et al. 2023, arXiv 2306.12370). Of the candidates the one is proposed that a Gaussian
process, told of all trials and probes, expects to improve most on the best trial. Of the first proposals all
candidates are uniform; without probes they are uniform draws, as in TPE.

The constants below come from replays of recorded trials (`python -m benchmarks search_quality`), which also
show that with `asha` TPE is the better searcher.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

from cluster.searchers import Draw, Probe
from cluster.searchers.qmc import spread

WIDTH = 0.2
"""Standard deviation of a step away from a known configuration, as a share of a hyperparameter's range, where
the space states none."""
CHANGED = 0.5
"""Probability that a hyperparameter of a known configuration is changed (PriorBand's value)."""
UNIFORM = 0.5
"""Share of uniform candidates."""
NUM_UNIFORM = 6
"""Number of first proposals whose candidates are all uniform."""
BEST = 3
"""Number of best trials that proposals lie around."""
CANDIDATES = 64
"""Number of configurations among which the model chooses."""
NOISE = 0.15
"""Assumed variance of a score's noise, as a share of the scores' variance."""
LENGTH = 0.5
"""Length scale of the model, as a share of a hyperparameter's range."""

Anchor = tuple[float, Mapping[str, Any]]
"""Weight and parameters of a configuration that candidates lie around."""

_HAS_VALUE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass(frozen=True)
class Seen:
    """A trial or a probe with its score, of which more is better; NaN while it has reported none."""

    params: Mapping[str, Any]
    score: float
    is_given: bool = False
    """It runs a recipe or a warm start, not a proposal."""

    is_probe: bool = False


class GuidedSampler(BaseSampler):
    """Proposes one configuration; all randomness follows from the draw, all else from the study."""

    def __init__(self, draw: Draw) -> None:
        self._seed, self._is_uniform, self._probes = draw.seed, draw.index < NUM_UNIFORM, draw.probes
        self._widths = draw.widths
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
        trials, space = _seen(study, trial)
        known = [one for one in trials if not math.isnan(one.score)]
        if not known or (self._is_uniform and not self._probes):
            return Plan({}, rng, changed=1.0, widths=self._widths)
        anchors = _anchors(trials)
        tried = {_key(one.params) for one in trials}
        drawn = [_reached(self._draw_plan(anchors, rng).fill(space), trials) for _ in range(CANDIDATES)]
        candidates = [values for values in drawn if _key(values) not in tried] or drawn
        seen = [*trials, *_probed(self._probes, space)]
        chosen = int(np.argmax(_improvement(seen, candidates, space)))
        return Plan(candidates[chosen], rng, changed=0.0, widths=self._widths)

    def _draw_plan(self, anchors: Sequence[Anchor], rng: np.random.Generator) -> Plan:
        if self._is_uniform or rng.random() < UNIFORM:
            return Plan({}, rng, changed=1.0, widths=self._widths)
        weights = np.array([weight for weight, _ in anchors])
        _, params = anchors[rng.choice(len(anchors), p=weights / weights.sum())]
        return Plan(params, rng, changed=CHANGED, widths=self._widths)


@dataclass
class Plan:
    """Values near a known configuration; uniform ones where it has none."""

    anchor: Mapping[str, Any]
    rng: np.random.Generator
    changed: float
    """Probability that a value of the anchor is changed."""

    widths: Mapping[str, float] = field(default_factory=dict)

    def fill(self, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        return {name: self.value(name, distribution) for name, distribution in space.items()}

    def value(self, name: str, distribution: BaseDistribution) -> Any:
        """Draw the value of a hyperparameter; a value of the anchor that the space lacks counts as none."""
        known = self.anchor.get(name)
        if not _holds(distribution, known):
            return spread(distribution, self.rng.random())
        if self.rng.random() >= self.changed:
            return known
        if isinstance(distribution, CategoricalDistribution):
            return self._step(known, distribution)
        place = to_unit(known, distribution) + self.widths.get(name, WIDTH) * self.rng.standard_normal()
        # Reflected at the ends, so that they are not proposed more often than others.
        place = abs(place) % 2
        return spread(distribution, min(2 - place if place > 1 else place, 1.0))

    def _step(self, known: Any, distribution: CategoricalDistribution) -> Any:
        choices = distribution.choices
        if is_ordered(choices):
            at = choices.index(known) + int(self.rng.choice((-1, 1)))
            return choices[at] if 0 <= at < len(choices) else known
        return choices[self.rng.integers(len(choices))]


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the space still has this value of an earlier trial, or of a recipe."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return value is not None and distribution.low <= value <= distribution.high


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
        return float(math.log(value / low) / math.log(high / low))
    return float((value - low) / (high - low))


def _reached(values: Mapping[str, Any], seen: Sequence[Seen]) -> dict[str, Any]:
    """Leave out the hyperparameters of branches that the space would not enter with these values.

    Which those are is read off the trial that shares most values, first of all of those hyperparameters that
    every trial has: the space itself is code that cannot be asked before a trial begins.
    """
    everywhere = set.intersection(*(set(one.params) for one in seen))

    def shared(one: Seen) -> tuple[int, int]:
        same = [name for name, value in one.params.items() if values.get(name) == value]
        return sum(name in everywhere for name in same), len(same)

    alike = max(seen, key=shared).params
    return {name: value for name, value in values.items() if name in alike}


def _key(values: Mapping[str, Any]) -> str:
    return str(sorted(values.items()))


def _seen(study: Study, trial: FrozenTrial) -> tuple[list[Seen], dict[str, BaseDistribution]]:
    """The other trials, and the distributions of their hyperparameters."""
    sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
    found: list[Seen] = []
    space: dict[str, BaseDistribution] = {}
    for other in study._get_trials(deepcopy=False, states=_HAS_VALUE, use_cache=False):
        if other.number == trial.number:
            continue
        if other.state == TrialState.COMPLETE and other.values:
            score = sign * other.values[0]
        elif other.intermediate_values:
            score = sign * other.intermediate_values[max(other.intermediate_values)]
        else:
            score = math.nan
        found.append(Seen(other.params, score, is_given="fixed_params" in other.system_attrs))
        space |= other.distributions
    return found, space


def _probed(probes: Iterable[Probe], space: Mapping[str, BaseDistribution]) -> list[Seen]:
    """What the probes measured, as trials of the space; that they unfreeze nothing may be no choice of it."""
    found = []
    for probe in probes:
        known = {name: probe.config.get(name) for name in space}
        values = {name: value for name, value in known.items() if _holds(space[name], value)}
        found.append(Seen(values, probe.score, is_probe=True))
    return found


def _anchors(seen: Sequence[Seen]) -> list[Anchor]:
    """The best trials, and recipes.

    A recipe that is not among the best weighs less with every proposal that has been made.
    """
    known = (one for one in seen if not math.isnan(one.score))
    best = sorted(known, key=lambda one: -one.score)[:BEST]
    scale = 2 * max(1e-3, float(np.std([one.score for one in best])))
    weighted = [(math.exp((one.score - best[0].score) / scale), one.params) for one in best]
    proposed = sum(not one.is_given for one in seen)
    others = [one for one in seen if one.is_given and all(one is not other for other in best)]
    return weighted + [(1 / (1 + proposed), one.params) for one in others]


def _improvement(
    seen: Sequence[Seen], candidates: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]
) -> NDArray[np.float64]:
    """Expected improvement of each candidate on the best trial, by a Gaussian process with a fixed kernel."""
    known = [one for one in seen if not math.isnan(one.score)]
    scores = np.array([one.score for one in known])
    # Clipped, so that a diverged trial does not flatten the differences between good ones.
    low = np.quantile(scores, 0.25) if len(scores) > 4 else scores.min()
    clipped = np.maximum(scores, low - 1.5 * max(scores.max() - low, 1e-3))
    mean, scale = clipped.mean(), max(float(clipped.std()), 1e-3)
    targets = (clipped - mean) / scale
    points = np.array([_encode(one.params, space) for one in known])
    running = [one for one in seen if math.isnan(one.score)]
    wanted = np.array([_encode(values, space) for values in candidates])
    if running:  # believed to reach what the model expects of them, so that proposals in parallel differ
        pending = np.array([_encode(one.params, space) for one in running])
        expected, _ = _posterior(points, targets, pending)
        points, targets = np.concatenate([points, pending]), np.concatenate([targets, expected])
    expected, deviation = _posterior(points, targets, wanted)
    best = float(targets[: len(known)][[not one.is_probe for one in known]].max())
    z = (expected - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return np.asarray((expected - best) * below + deviation * density)


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
