"""The score of a rule on new images: the whole selection is repeated on resamples of the images.

Each resample draws whole groups with replacement, applies the rule to it, and scores what the rule took on
the images that were not drawn: the bootstrap bias corrected cross-validation of Tsamardinos, Greasidou and
Borboudakis 2018, Machine Learning 107:1895. The scores of an image over the resamples that left it out are
averaged first, and the images then: the leave-one-out bootstrap of Efron and Tibshirani 1997, J. Am. Stat.
Assoc. 92:548, so that each image counts alike, however often it was left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.answer.intervals import (
    Estimate,
    estimate_loss,
    estimate_share,
    paired_difference,
    variance_of_mean,
)
from analysis.answer.pool import Pool
from analysis.answer.rules import Choice, Rule, choose, make_rules
from analysis.answer.scores import (
    CLASS_METRICS,
    ImageScores,
    check_metric,
    count_classes,
    mean_over_classes,
    score_shares,
)
from analysis.predictions import Array
from contract.metrics import direction_of, is_share

ACCURACY, LOSS, TOP3 = "val_accuracy", "val_loss", "val_top3_accuracy"
MOST_REMEMBERED = 5_000_000
"""Image scores that are kept of what was chosen before, as the same is often chosen again."""

INTERVAL_RESAMPLES = 400
"""Resamples of the interval of a metric of classes."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of a rule, three ways of looking at one number."""

    metric: str
    as_chosen: float
    """On the images it was chosen by: too good for having been chosen."""

    corrected: float
    """On images that the selection has not seen."""

    low: float
    high: float
    """Ends of the 95% interval of the chosen model's score on new images."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better a rule is than a cheaper one on images that neither selection has seen."""

    rule: str
    than: str
    metric: str
    value: float
    """Corrected difference, positive where `rule` is better, also for a loss."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RuleScores:
    """What a rule chose, and what that is worth."""

    rule: str
    choice: Choice
    num_resamples: int
    scores: Mapping[str, Score]
    """By metric: accuracy, log-loss and the study's metric."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """All rules of a study with their corrected scores, the cheapest rule first."""

    metric: str
    num_images: int
    num_groups: int
    num_candidates: int
    rules: tuple[RuleScores, ...]
    gains: tuple[Gain, ...]

    def of(self, rule: str) -> RuleScores:
        return next(one for one in self.rules if one.rule == rule)

    def gain(self, rule: str, than: str, metric: str) -> Gain:
        """Return the gain of a rule over one that comes before it."""
        return next(g for g in self.gains if (g.rule, g.than, g.metric) == (rule, than, metric))


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a rule gave the images in the resamples that left them out."""

    pool: Pool
    times: Array
    """How often each image was left out, float64 [images]; the sums below are over those resamples."""

    right: Array
    loss: Array
    top3: Array
    votes: Array | None
    """How often each image was taken for each class, [images, classes]; for metrics of classes alone."""

    chosen_right: Array
    chosen_loss: Array
    """Score on all images of what was chosen on each resample, [resamples]: its spread is that of models."""

    @cached_property
    def images(self) -> Array:
        """Indices of the images that were ever left out."""
        return np.flatnonzero(self.times)

    @cached_property
    def groups(self) -> Array:
        """Number of the group of each of `images`."""
        return np.unique(self.pool.groups[self.images], return_inverse=True)[1]

    @property
    def num_groups(self) -> int:
        return int(self.groups.max()) + 1

    def values(self, metric: str) -> Array:
        """Mean score of each of `images`; of a metric of classes its value, then those of resamples."""
        if metric in CLASS_METRICS:
            assert self.votes is not None
            votes = self.votes[self.images] / self.times[self.images, None]
            return resample_classes(votes, self.pool.labels[self.images], self.groups, metric)
        sums = {ACCURACY: self.right, LOSS: self.loss, TOP3: self.top3}[metric]
        means: Array = sums[self.images] / self.times[self.images]
        return means

    def chosen(self, metric: str) -> Array:
        """Scores whose spread is that of the models that might have been chosen, [resamples]."""
        return self.chosen_loss if metric == LOSS else self.chosen_right

    def joined(self, other: LeftOut) -> LeftOut:
        """Add the resamples of another."""
        votes = None if self.votes is None or other.votes is None else self.votes + other.votes
        return LeftOut(
            pool=self.pool,
            times=self.times + other.times,
            right=self.right + other.right,
            loss=self.loss + other.loss,
            top3=self.top3 + other.top3,
            votes=votes,
            chosen_right=np.concatenate([self.chosen_right, other.chosen_right]),
            chosen_loss=np.concatenate([self.chosen_loss, other.chosen_loss]),
        )


def correct(
    pool: Pool, metric: str, *, rules: Sequence[Rule] | None = None, seed: int = 0
) -> Correction | None:
    """Choose by every rule, and correct its score for the choice; None if no candidate has its weights.

    Candidates without weights take part in the resamples' selections, since they might have been chosen.

    Args:
        metric: the study's metric, one that predictions determine.
        rules: None = all that the pool allows.
    """
    check_metric(metric)
    rules = rules or make_rules(pool, metric)
    choices = [choose(pool, rule) for rule in rules]
    weights = draw_resamples(pool.groups, max(rule.num_resamples for rule in rules), seed=seed)
    shared = min(rule.num_resamples for rule in rules)
    metrics = tuple(dict.fromkeys((ACCURACY, LOSS, metric)))
    scored, compared = [], []
    for rule, choice in zip(rules, choices, strict=True):
        if choice is None:
            return None
        with_votes = metric in CLASS_METRICS
        first = repeat_rule(pool, rule, weights[:shared], with_votes=with_votes)
        rest = weights[shared : rule.num_resamples]
        full = first.joined(repeat_rule(pool, rule, rest, with_votes=with_votes)) if len(rest) else first
        scores = {name: score_rule(full, choice, name) for name in metrics}
        scored.append(
            RuleScores(rule=rule.name, choice=choice, num_resamples=rule.num_resamples, scores=scores)
        )
        compared.append((rule.name, choice, first))
    gains = []
    for index, (name, choice, left_out) in enumerate(compared):
        for cheaper, than, other in compared[:index]:
            for of in metrics:
                found = find_gain(left_out, choice, other, than, of)
                gain = Gain(
                    rule=name, than=cheaper, metric=of, value=found.value, low=found.low, high=found.high
                )
                gains.append(gain)
    return Correction(
        metric=metric,
        num_images=pool.num_images,
        num_groups=pool.num_groups,
        num_candidates=len(pool),
        rules=tuple(scored),
        gains=tuple(gains),
    )


def draw_resamples(groups: Array, number: int, *, seed: int) -> Array:
    """Draw how often each image counts: [number, images]. Whole groups are drawn, with replacement.

    A draw of all groups would leave none to score: it is drawn again, unless there is one group only.
    """
    generator = np.random.default_rng(seed)
    num_groups = int(groups.max()) + 1
    counts = np.empty((number, num_groups), dtype=np.float32)
    for row in counts:
        while True:
            row[:] = np.bincount(generator.integers(0, num_groups, num_groups), minlength=num_groups)
            if num_groups == 1 or (row == 0).any():
                break
    return counts[:, groups]


def repeat_rule(pool: Pool, rule: Rule, weights: Array, *, with_votes: bool) -> LeftOut:
    """Apply a rule to each resample [resamples, images] and score what it took on the images left out."""
    times, right, loss, top3 = np.zeros((4, pool.num_images))
    votes = np.zeros((pool.num_images, pool.num_classes), dtype=np.float32) if with_votes else None
    chosen = np.zeros((2, len(weights)))
    every = np.arange(pool.num_images)
    known: dict[bytes, ImageScores] = {}
    for number, shares in enumerate(rule.select(pool, weights)):
        key = shares.tobytes()
        if key not in known:
            if len(known) * pool.num_images > MOST_REMEMBERED:
                known.clear()
            known[key] = score_shares(pool, shares, rule.pooling, every)
        scores = known[key]
        chosen[:, number] = scores.right.mean(), scores.loss.mean()
        images = np.flatnonzero(weights[number] == 0)
        times[images] += 1
        right[images] += scores.right[images]
        loss[images] += scores.loss[images]
        top3[images] += scores.top3[images]
        if votes is not None:
            votes[images, scores.predicted[images]] += 1
    return LeftOut(pool, times, right, loss, top3, votes, chosen[0], chosen[1])


def score_rule(left_out: LeftOut, choice: Choice, metric: str) -> Score:
    """Give a rule's score as chosen and corrected, with the interval."""
    chosen = _values_of_choice(choice, metric)
    as_chosen = float(chosen[0]) if metric in CLASS_METRICS else float(chosen.mean())
    if len(left_out.images) == 0:  # one group: nothing was ever left out
        ends = (0.0, 1.0) if is_share(metric) else (0.0, np.inf)
        return Score(metric=metric, as_chosen=as_chosen, corrected=as_chosen, low=ends[0], high=ends[1])
    values = left_out.values(metric)
    variance = _variance(left_out, metric, values, chosen) + float(left_out.chosen(metric).var())
    if metric == LOSS:
        found = estimate_loss(float(values.mean()), variance, num_groups=left_out.num_groups)
    else:
        value = float(values[0]) if metric in CLASS_METRICS else float(values.mean())
        if metric not in CLASS_METRICS:
            variance = max(variance, value * (1 - value) / len(values))
        found = estimate_share(value, variance, num_groups=left_out.num_groups)
    return Score(metric=metric, as_chosen=as_chosen, corrected=found.value, low=found.low, high=found.high)


def find_gain(one: LeftOut, choice: Choice, cheaper: LeftOut, than: Choice, metric: str) -> Estimate:
    """Compare two rules image by image, on the same resamples; positive where the first is better."""
    if len(one.images) == 0:
        return Estimate(0.0, -np.inf, np.inf)
    sign = direction_of(metric).sign
    values = sign * (one.values(metric) - cheaper.values(metric))
    chosen = sign * (_values_of_choice(choice, metric) - _values_of_choice(than, metric))
    spread = float((one.chosen(metric) - cheaper.chosen(metric)).var())
    value = float(values[0]) if metric in CLASS_METRICS else float(values.mean())
    variance = _variance(one, metric, values, chosen) + spread
    return paired_difference(value, variance, num_groups=one.num_groups)


def _variance(left_out: LeftOut, metric: str, values: Array, chosen: Array) -> float:
    """Variance that comes with the images: of the mean over models, or of the chosen one if that is larger.

    Averaged over the models of many resamples, an image's score varies less than that of one model.
    """
    if metric in CLASS_METRICS:
        return max(float(values[1:].var()), float(chosen[1:].var()))
    averaged = variance_of_mean(values, left_out.groups)
    return max(averaged, variance_of_mean(chosen, left_out.pool.groups))


def _values_of_choice(choice: Choice, metric: str) -> Array:
    """What `LeftOut.values` gives, of one model on the images that it was chosen by."""
    pool, scores = choice.pool, choice.scores
    if metric in CLASS_METRICS:
        votes = np.zeros((pool.num_images, pool.num_classes), dtype=np.float32)
        votes[np.arange(pool.num_images), scores.predicted] = 1
        return resample_classes(votes, pool.labels, pool.groups, metric)
    return {ACCURACY: scores.right, LOSS: scores.loss, TOP3: scores.top3}[metric]


def resample_classes(votes: Array, labels: Array, groups: Array, metric: str) -> Array:
    """Score votes [images, classes] by a metric of classes: on all images, then on resamples of groups.

    Args:
        votes: share of each class in an image's predictions; they add up to 1.
    """
    weights = draw_resamples(groups, INTERVAL_RESAMPLES, seed=1)
    weights = np.concatenate([np.ones((1, len(labels)), dtype=np.float32), weights])
    size = votes.shape[1]
    images = count_classes(weights, labels, size)
    right = count_classes(weights * votes[np.arange(len(labels)), labels], labels, size)
    taken = weights @ votes if metric == "val_macro_f1" else None
    return mean_over_classes(right, images, taken)
