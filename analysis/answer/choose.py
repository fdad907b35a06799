"""Makes the answer of a study: chooses a rule, corrects its score, calibrates it and sets its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.answer.correction import Correction, RuleScores, correct
from analysis.answer.gate import TOLERANCE, Decision, decide
from analysis.answer.pool import Pool
from analysis.answer.power import find_smallest_difference
from analysis.answer.record import Answer
from analysis.answer.rules import GREEDY_RESAMPLES, Choice, Rule, make_rules
from analysis.answer.scores import score_candidates
from analysis.calibration.operating_point import find_operating_point, measure_ranking, parse_target
from analysis.calibration.prediction_sets import fit_threshold, fit_thresholds
from analysis.calibration.temperature import calibrate
from analysis.predictions import Array
from contract.answer import Combination, MemberRef, Pooling, apply_temperature, pool_log_probabilities
from contract.metrics import direction_of

POSITIVE = 1
"""Class that an operating point is about: the second of two."""

Costs = Callable[[Mapping[str, Combination]], Mapping[str, float]]
"""Measures the milliseconds that one image takes with each rule's model, by rule."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """The chosen model, with its predictions of the validation images."""

    answer: Answer
    pool: Pool
    choice: Choice

    @cached_property
    def probabilities(self) -> Array:
        """Calibrated, [images, classes]."""
        values = pool_choice(self.choice)
        return np.exp(apply_temperature(values, self.answer.combination.temperature))


def choose_answer(
    pool: Pool,
    *,
    metric: str,
    made_of: str,
    rule: str = "auto",
    at: str | None = None,
    classes: Sequence[str] = (),
    fits: Mapping[MemberRef, str] | None = None,
    soups: Sequence[MemberRef] = (),
    measure_costs: Costs | None = None,
) -> Chosen:
    """Choose one model of the pool's candidates.

    Args:
        metric: the study's metric.
        rule: "auto" lets the corrected scores decide; else the rule's name.
        at: operating point for two classes, as in "precision=0.95".
        fits: how each candidate's images are made square: those of one fit are combined only.
        soups: candidates whose weights are averages of others'.

    Raises:
        ValueError: no candidate has its weights, the rule does not apply, or the operating point does not.
    """
    pool = _of_one_fit(pool, metric, fits or {})
    extra = _extra_rules(pool, soups)
    if rule in ("mean", "soup") and rule not in {one.name for one in extra}:
        raise ValueError(_say_why_not(rule))
    wanted = [one for one in extra if one.name == rule]
    correction = correct(pool, metric, rules=[*make_rules(pool, metric), *wanted])
    if correction is None:
        raise ValueError(
            "no candidate has its weights any more: they were freed, or no trial completed;"
            " tune.py with more --trials trains new ones"
        )
    costs = (
        measure_costs({one.rule: one.choice.combination for one in correction.rules}) if measure_costs else {}
    )
    decision = _decide(correction, costs, rule)
    scored = correction.of(decision.rule)
    pooled = pool_choice(scored.choice)
    calibration = calibrate(pooled, pool.labels, pool.groups)
    probabilities = np.exp(apply_temperature(pooled, calibration.temperature))
    facts: dict[str, Any] = {
        "calibration": calibration.as_values(),
        "prediction_sets": fit_threshold(probabilities, pool.labels, groups=pool.groups).as_values(),
        "set_thresholds": fit_thresholds(probabilities, pool.labels),
        "smallest_difference": find_smallest_difference(pool),
        "candidates": len(pool),
    }
    if decision.rule == "single":
        facts |= _find_higher(scored.choice, metric)
    facts |= _judge_two_classes(probabilities, pool, at, classes)
    combination = replace(scored.choice.combination, temperature=calibration.temperature)
    best = correction.of("single").choice.combination.members[0].ref
    answer = Answer(
        rule=decision.rule,
        why=decision.reasons[decision.rule],
        combination=combination,
        made_of=made_of,
        images=pool.num_images,
        groups=pool.num_groups,
        metric=metric,
        scores={name: _score_values(score) for name, score in scored.scores.items()},
        rules=tuple(_describe_rule(correction, one, costs, decision) for one in correction.rules),
        single={"kind": best.kind, "number": best.number, "view": best.view},
        facts=facts,
    )
    return Chosen(answer=answer, pool=pool, choice=scored.choice)


def pool_choice(choice: Choice) -> Array:
    """Pool the members' log-probabilities: [images, classes]."""
    members = choice.members
    values = choice.pool.log_probabilities[members]
    return pool_log_probabilities(values, choice.shares[members], choice.pooling)


def _of_one_fit(pool: Pool, metric: str, fits: Mapping[MemberRef, str]) -> Pool:
    """Keep the candidates whose images are made square as the best one's are: one program has one way."""
    found = [fits.get(replace(one.ref, view=""), "") for one in pool.candidates]
    if len(set(found)) < 2 or not len(pool.selectable):
        return pool
    single = make_rules(pool, metric)[0]
    shares = single.select(pool.of(pool.selectable), np.ones((1, pool.num_images)))[0]
    wanted = found[int(pool.selectable[int(shares.argmax())])]
    return pool.of(np.array([index for index, fit in enumerate(found) if fit == wanted]))


def _extra_rules(pool: Pool, soups: Sequence[MemberRef]) -> list[Rule]:
    """The rules that are only used if asked for: the mean of all recipes, and the best soup."""
    recipes = np.array([i for i in pool.selectable if pool.candidates[i].is_recipe], dtype=np.int64)
    soup = np.array([i for i in pool.selectable if pool.candidates[i].ref in soups], dtype=np.int64)
    rules = []
    if len(recipes):
        rules.append(_fixed_rule("mean", [pool.candidates[i].ref for i in recipes]))
    if len(soup):
        losses = pool.losses[soup].mean(axis=1)
        best = pool.candidates[int(soup[int(losses.argmin())])].ref
        rules.append(_fixed_rule("soup", [best]))
    return rules


def _fixed_rule(name: str, refs: Sequence[MemberRef]) -> Rule:
    """A rule that chooses nothing: the same candidates with equal shares, whatever the images."""
    wanted = set(refs)

    def select(of: Pool, weights: Array) -> Array:
        chosen = np.array([one.ref in wanted for one in of.candidates], dtype=np.float64)
        return np.tile(chosen / max(chosen.sum(), 1.0), (len(weights), 1))

    return Rule(name=name, pooling=Pooling.PROBABILITIES, num_resamples=GREEDY_RESAMPLES, select=select)


def _say_why_not(rule: str) -> str:
    if rule == "mean":
        return "--rule mean: no published recipe of this study has its weights; use --rule ensemble"
    return "--rule soup: no two candidates share backbone, depth, head and start, so nothing can be averaged"


def _decide(correction: Correction, costs: Mapping[str, float], rule: str) -> Decision:
    if rule == "auto":
        return decide(correction, costs=costs or None)
    names = [one.rule for one in correction.rules]
    if rule not in names:
        raise ValueError(
            f"--rule {rule} does not apply: the study has too few candidates with weights for it "
            f"(these apply: {', '.join(names)})"
        )
    reasons = decide(correction, costs=costs or None).reasons
    return Decision(rule=rule, reasons={**reasons, rule: "It was asked for."})


def _find_higher(choice: Choice, metric: str) -> dict[str, Any]:
    """Name the candidate that is above the chosen one by the metric, by no more than noise explains."""
    pool, chosen = choice.pool, choice.members[0]
    scores = score_candidates(pool, metric, np.ones((1, pool.num_images)))[0]
    best = pool.selectable[scores[pool.selectable].argmax()]
    if scores[best] <= scores[chosen] + TOLERANCE:
        return {}
    value = direction_of(metric).sign * float(scores[best])
    name, than = (pool.candidates[index].ref.name for index in (best, chosen))
    return {"higher": {"name": name, "value": value, "than": than}}


def _judge_two_classes(
    probabilities: Array, pool: Pool, at: str | None, classes: Sequence[str]
) -> dict[str, Any]:
    """AUROC and average precision where there are two classes, and the operating point if one is wanted."""
    if pool.num_classes != 2:
        if at is not None:
            raise ValueError(
                f"--at {at}: an operating point is for two classes, and these are {pool.num_classes}"
            )
        return {}
    positive = str(classes[POSITIVE]) if classes else str(POSITIVE)
    if len(np.unique(pool.labels)) < 2:
        if at is not None:
            raise ValueError(f"--at {at}: the validation images are all of one class")
        return {}
    ranking = measure_ranking(probabilities, pool.labels, positive=POSITIVE, groups=pool.groups)
    found: dict[str, Any] = {"ranking": {"positive": positive, **ranking.as_values()}}
    if at is not None:
        point = find_operating_point(
            probabilities, pool.labels, parse_target(at), positive=POSITIVE, groups=pool.groups
        )
        found["operating_point"] = {
            "positive": positive,
            "said": point.describe(positive),
            **point.as_values(),
        }
    return found


def _score_values(score: Any) -> dict[str, float]:
    return {name: float(getattr(score, name)) for name in ("as_chosen", "corrected", "low", "high")}


def _describe_rule(
    correction: Correction, one: RuleScores, costs: Mapping[str, float], decision: Decision
) -> dict[str, Any]:
    """Collect what the report's table says of a rule."""
    choice, first = one.choice, correction.rules[0].rule
    gain = None if one.rule == first else asdict(correction.gain(one.rule, first, "val_loss"))
    members = choice.combination.members
    return {
        "rule": one.rule,
        "members": [{"name": member.ref.name, "weight": member.weight} for member in members],
        "combination": choice.combination.as_values(),
        "backbones": sorted({choice.pool.candidates[index].backbone for index in choice.members}),
        "milliseconds": costs.get(one.rule),
        "scores": {name: _score_values(score) for name, score in one.scores.items()},
        "gain": gain,
        "reason": decision.reasons.get(one.rule, ""),
        "is_chosen": one.rule == decision.rule,
    }
