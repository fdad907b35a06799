"""The rules that turn a pool of candidates into one model: the best single one, and two greedy ensembles.

A rule maps image weights to shares of the candidates. So the same code chooses the answer and is repeated
on every resample of the bootstrap that corrects its score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from analysis.answer.greedy import STEPS, compact_classes, greedy_logits, greedy_probabilities
from analysis.answer.pool import LOWEST, Pool
from analysis.answer.scores import ImageScores, difference_errors, score_candidates, score_shares
from analysis.predictions import Array
from contract.answer import Combination, Pooling, WeightedMember

MOST_PRESELECTED = 20
"""Candidates that a greedy rule looks at: those with the lowest log-loss on the resample."""

FEWEST_PRESELECTED = 5
KEPT_CLASSES = 8
"""Classes of an image that the pooling of logits looks at one by one; the others are joined."""

MOST_PREFIXES = 3
"""Prefixes among which the best is looked for: those of the best candidates."""

SINGLE_RESAMPLES, GREEDY_RESAMPLES, FEWEST_RESAMPLES = 1000, 200, 50
MOST_WORK = 6e9
"""Most logarithms and exponentials of one greedy rule, all resamples together: 20 to 30 s of one core.

Beyond it, fewer candidates are preselected, and then fewer resamples drawn.
"""

Select = Callable[[Pool, Array], Array]
"""Maps a pool and image weights [resamples, images] to shares that add up to 1: [resamples, candidates]."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way of choosing, with the pooling that it chooses by."""

    name: str
    pooling: Pooling
    num_resamples: int
    """Resamples that its correction draws."""

    select: Select


@dataclass(frozen=True, eq=False)
class Choice:
    """A rule's choice: the share of each candidate of the pool."""

    pool: Pool
    shares: Array
    """[candidates], adding up to 1."""

    pooling: Pooling

    @cached_property
    def members(self) -> Array:
        """Indices of the candidates that have a share, the largest first."""
        order = np.argsort(-self.shares, kind="stable")
        return order[self.shares[order] > 0]

    @cached_property
    def scores(self) -> ImageScores:
        """Scores of the images that it was chosen by."""
        return score_shares(self.pool, self.shares, self.pooling, np.arange(self.pool.num_images))

    @property
    def combination(self) -> Combination:
        """The choice as data, without a temperature."""
        members = tuple(
            WeightedMember(ref=self.pool.candidates[index].ref, weight=float(self.shares[index]))
            for index in self.members
        )
        return Combination(members=members, pooling=self.pooling)

    @property
    def cost(self) -> float:
        """Relative cost of one image: members of one prefix pay for it once.

        Their suffixes count as nothing, so it is a lower bound for deep ones.
        """
        return estimate_cost(self.pool, self.members)

    def is_same_model(self, other: Choice) -> bool:
        """True if both predict the same: equal shares, and equal pooling where there are several members."""
        same = len(self.members) == 1 or self.pooling is other.pooling
        return same and bool(np.allclose(self.shares, other.shares))


def estimate_cost(pool: Pool, members: Array) -> float:
    """Add up the relative costs of one image; of members with one prefix the largest counts."""
    largest: dict[str, float] = defaultdict(float)
    for index in members:
        one = pool.candidates[index]
        key = f"{one.prefix}/{one.ref.view}" if one.prefix else f"#{index}"
        largest[key] = max(largest[key], one.cost)
    return sum(largest.values())


def make_rules(pool: Pool, metric: str) -> tuple[Rule, ...]:
    """List the rules that this pool allows, the cheapest first."""
    rules = [
        Rule(
            name="single",
            pooling=Pooling.PROBABILITIES,
            num_resamples=SINGLE_RESAMPLES,
            select=partial(select_single, metric=metric),
        )
    ]
    if len(pool) < 2:
        return tuple(rules)
    if find_prefixes(pool):
        kept = min(pool.num_classes, KEPT_CLASSES + 1)
        preselected, resamples = fit_work(pool.num_images * kept)
        select = partial(select_prefix_ensemble, preselected=preselected)
        rules.append(
            Rule(name="prefix_ensemble", pooling=Pooling.LOGITS, num_resamples=resamples, select=select)
        )
    preselected, resamples = fit_work(pool.num_images)
    select = partial(select_ensemble, preselected=preselected)
    rules.append(Rule(name="ensemble", pooling=Pooling.PROBABILITIES, num_resamples=resamples, select=select))
    return tuple(rules)


def fit_work(values: int) -> tuple[int, int]:
    """Return how many candidates are preselected and how many resamples drawn within MOST_WORK.

    Args:
        values: numbers that a step computes for each candidate.
    """
    one = STEPS * values
    preselected = int(np.clip(MOST_WORK / (one * GREEDY_RESAMPLES), FEWEST_PRESELECTED, MOST_PRESELECTED))
    resamples = int(np.clip(MOST_WORK / (one * preselected), FEWEST_RESAMPLES, GREEDY_RESAMPLES))
    return preselected, resamples


def choose(pool: Pool, rule: Rule) -> Choice | None:
    """Apply a rule to all images and the candidates whose weights are there; None if none is."""
    indices = pool.selectable
    if len(indices) == 0:
        return None
    shares = np.zeros(len(pool))
    shares[indices] = rule.select(pool.of(indices), np.ones((1, pool.num_images)))[0]
    return Choice(pool, shares, rule.pooling)


def select_single(pool: Pool, weights: Array, *, metric: str) -> Array:
    """Take the candidate of the lowest loss among those as good as the best, of equal ones the cheapest.

    As good is what lacks at most one standard error of the paired difference: the rule of one standard error
    of Breiman et al. 1984, Classification and Regression Trees. The log-loss of few images says more than
    their accuracy (`python -m benchmarks search_quality`).
    """
    order = pool.by_cost
    scores = score_candidates(pool, metric, weights)[:, order]
    losses = score_candidates(pool, "val_loss", weights)[:, order]  # its sign is turned: more is better
    errors = difference_errors(pool, metric)[np.ix_(order, order)]
    best = scores.argmax(axis=1)
    near = scores >= scores.max(axis=1, keepdims=True) - errors[best] - 1e-9
    losses = np.where(near, losses, -np.inf)
    first = (losses >= losses.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)
    shares = np.zeros(scores.shape)
    shares[np.arange(len(weights)), order[first]] = 1.0
    return shares


def select_ensemble(pool: Pool, weights: Array, *, preselected: int = MOST_PRESELECTED) -> Array:
    """Combine any candidates by the mean of their probabilities."""
    losses = -score_candidates(pool, "val_loss", weights)
    own = np.exp(-pool.losses).astype(np.float32)
    shares = np.zeros(losses.shape)
    for number, counted in enumerate(weights):
        chosen = _preselect(pool, losses[number], np.arange(len(pool)), preselected)
        images = np.flatnonzero(counted)
        counts = greedy_probabilities(own[np.ix_(chosen, images)], counted[images])
        shares[number, chosen] = counts / counts.sum()
    return shares


def select_prefix_ensemble(pool: Pool, weights: Array, *, preselected: int = MOST_PRESELECTED) -> Array:
    """Combine candidates of one frozen prefix by the mean of their logits, the prefix with the lowest loss.

    Without two candidates of any prefix it is the candidate with the lowest loss.
    """
    losses = -score_candidates(pool, "val_loss", weights)
    own = np.maximum(-pool.losses, LOWEST).astype(np.float32)
    shares = np.zeros(losses.shape)
    prefixes = [(of, _classes_of(pool, of)) for of in find_prefixes(pool)]
    if not prefixes:
        shares[np.arange(len(weights)), losses.argmin(axis=1)] = 1.0
    for number, counted in enumerate(weights):
        images = np.flatnonzero(counted)
        lowest = np.inf
        for of, classes in prefixes:
            chosen = _preselect(pool, losses[number], of, preselected)
            rows = np.searchsorted(of, chosen)
            part = classes[:, rows][:, :, images]
            counts = greedy_logits(own[np.ix_(chosen, images)], part, counted[images])
            found = _pooled_loss(own[np.ix_(chosen, images)], part, counted[images], counts / counts.sum())
            if found < lowest:
                lowest = found
                shares[number] = 0.0
                shares[number, chosen] = counts / counts.sum()
    return shares


def find_prefixes(pool: Pool) -> list[Array]:
    """Indices of the candidates of each prefix that has two or more, that of the best candidate first."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(pool.candidates):
        if one.prefix:
            members[one.prefix].append(index)
    losses = pool.losses.mean(axis=1)
    several = [np.array(indices) for indices in members.values() if len(indices) > 1]
    return sorted(several, key=lambda indices: float(losses[indices].min()))[:MOST_PREFIXES]


def _classes_of(pool: Pool, indices: Array) -> Array:
    return compact_classes(pool.log_probabilities[indices], most=KEPT_CLASSES)


def _preselect(pool: Pool, losses: Array, among: Array, most: int) -> Array:
    """Return the candidates with the lowest loss, the cheapest of them first."""
    kept = among[np.argsort(losses[among], kind="stable")[:most]]
    chosen = pool.by_cost[np.isin(pool.by_cost, kept)]
    result: Array = chosen
    return result


def _pooled_loss(own: Array, classes: Array, weights: Array, shares: Array) -> float:
    pooled = np.tensordot(classes, shares, axes=(1, 0))
    losses = np.log(np.exp(pooled).sum(axis=0)) - shares @ own
    return float(losses @ weights / weights.sum())
