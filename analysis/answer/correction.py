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
    estimate_mean,
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

    def mean(self, metric: str) -> Array:
        """Mean score of each of `images` by a metric that is a mean over images."""
        sums = {ACCURACY: self.right, LOSS: self.loss, TOP3: self.top3}[metric]
        return sums[self.images] / self.times[self.images]

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
    pool: Pool, metric: str, *, seed: int = 0, rules: Sequence[Rule] | None = None
) -> Correction | None:
    """Choose by every rule, and correct its score for the choice; None if no candidate has its weights.

    Candidates without weights take part in the resamples' selections, since they might have been chosen.

    Args:
        metric: the study's metric, one that predictions determine.
        rules: None = all that the pool allows.
    """
    check_metric(metric)
    rules = make_rules(pool, metric) if rules is None else rules
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
        compared.append((rule.name, first))
    gains = [
        find_gain(name, one, cheaper, other, of)
        for index, (name, one) in enumerate(compared)
        for cheaper, other in compared[:index]
        for of in metrics
    ]
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
    as_chosen = score_choice(choice, metric)
    if len(left_out.images) == 0:  # one group: nothing was ever left out
        ends = (0.0, 1.0) if is_share(metric) else (0.0, np.inf)
        return Score(metric=metric, as_chosen=as_chosen, corrected=as_chosen, low=ends[0], high=ends[1])
    found = _estimate(left_out, metric)
    return Score(metric=metric, as_chosen=as_chosen, corrected=found.value, low=found.low, high=found.high)


def score_choice(choice: Choice, metric: str) -> float:
    """Score what a rule chose on the images it was chosen by."""
    pool = choice.pool
    every = np.arange(pool.num_images)
    scores = score_shares(pool, choice.shares, choice.pooling, every)
    if metric in CLASS_METRICS:
        votes = np.zeros((pool.num_images, pool.num_classes))
        votes[every, scores.predicted] = 1
        return float(_class_metric(votes, pool.labels, np.ones((1, len(every))), metric)[0])
    values = {ACCURACY: scores.right, LOSS: scores.loss, TOP3: scores.top3}[metric]
    return float(values.mean())


def _estimate(left_out: LeftOut, metric: str) -> Estimate:
    spread = float(left_out.chosen_right.var())
    if metric in CLASS_METRICS:
        values = _class_values(left_out, metric)
        return estimate_share(
            float(values[0]), float(values[1:].var()) + spread, num_groups=int(left_out.groups.max()) + 1
        )
    if metric == LOSS:
        return estimate_loss(left_out.mean(LOSS), left_out.groups, extra=float(left_out.chosen_loss.var()))
    return estimate_mean(left_out.mean(metric), left_out.groups, extra=spread)


def find_gain(name: str, one: LeftOut, cheaper: str, other: LeftOut, metric: str) -> Gain:
    """Compare two rules image by image, on the same resamples."""
    sign = direction_of(metric).sign
    if len(one.images) == 0:
        return Gain(rule=name, than=cheaper, metric=metric, value=0.0, low=-np.inf, high=np.inf)
    if metric in CLASS_METRICS:
        differences = _class_values(one, metric) - _class_values(other, metric)
        spread = float((one.chosen_right - other.chosen_right).var())
        variance = float(differences[1:].var()) + spread
        found = paired_difference(float(differences[0]), variance, num_groups=int(one.groups.max()) + 1)
    else:
        scores = sign * (one.mean(metric) - other.mean(metric))
        chosen = [(o.chosen_loss if metric == LOSS else o.chosen_right) for o in (one, other)]
        variance = variance_of_mean(scores, one.groups) + float((chosen[0] - chosen[1]).var())
        found = paired_difference(float(scores.mean()), variance, num_groups=int(one.groups.max()) + 1)
    return Gain(rule=name, than=cheaper, metric=metric, value=found.value, low=found.low, high=found.high)


def _class_values(left_out: LeftOut, metric: str) -> Array:
    """Return a metric of classes from the votes of the images left out, first of all, then of resamples."""
    assert left_out.votes is not None
    images, groups = left_out.images, left_out.groups
    shares = left_out.votes[images] / left_out.times[images, None]
    weights = np.concatenate([np.ones((1, len(images))), draw_resamples(groups, INTERVAL_RESAMPLES, seed=1)])
    return _class_metric(shares, left_out.pool.labels[images], weights, metric)


def _class_metric(votes: Array, labels: Array, weights: Array, metric: str) -> Array:
    """Score votes [images, classes] that add up to 1 an image, on each resample: [resamples]."""
    size = votes.shape[1]
    images = count_classes(weights, labels, size)
    right = count_classes(weights * votes[np.arange(len(labels)), labels], labels, size)
    taken = weights @ votes if metric == "val_macro_f1" else None
    return mean_over_classes(right, images, taken)
