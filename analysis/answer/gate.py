"""Chooses among the rules by scores on images that no selection has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.answer.correction import ACCURACY, LOSS, Correction, RuleScores

TOLERANCE = 1e-9
"""Relative difference of two costs, and difference of two accuracies, that rounding explains."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The rule whose choice is the answer, and why, in words."""

    rule: str
    reasons: Mapping[str, str]
    """One sentence for each rule, by its name, the cheapest rule first."""


def decide(correction: Correction, *, costs: Mapping[str, float] | None = None) -> Decision:
    """Begin with the single best, and let each further rule replace the best so far if its gain is shown.

    A rule replaces one that costs less if the 95% interval of its gain in log-loss lies above 0 and its
    corrected accuracy is not lower; one that costs no less, if neither is worse.

    Args:
        costs: cost of one image by rule, where it was measured; else `Choice.cost`.
    """
    known = costs or {}
    cost = {one.rule: known.get(one.rule, one.choice.cost) for one in correction.rules}
    best, *others = correction.rules
    reasons = {best.rule: "The others are compared with it."}
    for one in others:
        better, reasons[one.rule] = _compare(correction, one, best, cost)
        if better:
            best = one
    return Decision(rule=best.rule, reasons=reasons)


def _compare(
    correction: Correction, one: RuleScores, best: RuleScores, cost: Mapping[str, float]
) -> tuple[bool, str]:
    """Say whether a rule replaces the best so far, and why."""
    if one.choice.is_same_model(best.choice):
        return False, f"It chose the same model as {best.rule}."
    loss, accuracy = (correction.gain(one.rule, best.rule, metric) for metric in (LOSS, ACCURACY))
    interval = f"{loss.value:+.4f} nats, 95% interval {loss.low:+.4f} to {loss.high:+.4f}"
    beside = f"accuracy {100 * accuracy.value:+.2f} points"
    figures = f"gain in log-loss over {best.rule} on images left out {interval}; {beside}"
    if cost[one.rule] <= cost[best.rule] * (1 + TOLERANCE):
        if loss.value >= 0 and accuracy.value >= -TOLERANCE:
            return True, f"It costs no more, and neither log-loss nor accuracy is worse ({figures})."
        return False, f"It costs no more, but log-loss or accuracy is worse ({figures})."
    if loss.low <= 0:
        return False, f"It costs more, and its gain cannot be told from chance ({figures})."
    if accuracy.value < -TOLERANCE:
        return False, f"It costs more, and its accuracy is lower ({figures})."
    return True, f"Its gain is beyond chance, and its accuracy is not lower ({figures})."
