"""The answer in three sentences, computed from the study, and what to try next."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from analysis.comparison import describe_test
from analysis.curves import Curve
from analysis.majority import suggest_metric
from analysis.predictions import Predictions
from analysis.report.findings import Findings
from analysis.report.group_section import tell_leaks
from analysis.report.model_section import model_parts
from analysis.report.page import show_config, show_seconds, show_setting, show_value
from contract.files import plural
from contract.html import Section, bullets, escape, make_section, paragraph
from contract.messages import Reason, State
from contract.metrics import is_share

CERTAIN = 0.05
"""The report says that a hyperparameter matters if its p-value is below this."""

RISING_EPOCHS = 2
FEW_TRIALS = 30
FEW_IMAGES = 1000
MANY_LEFT_OUT = 0.02
"""Share of the images from which on the answer itself says that they were left out."""


def answer_section(findings: Findings) -> Section:
    steps = suggest_next_steps(findings)
    return make_section(
        "answer",
        "The answer",
        *model_parts(findings),
        "<h3>The search behind it</h3>" if findings.answer else "",
        *(paragraph(one, kind="" if findings.answer else "answer") for one in say_answer(findings)),
        *(paragraph(warning, kind="warning") for warning in warn_of_data(findings)),
        _tiles(findings),
        "<h3>What to try next</h3>" + bullets(steps) if steps else "",
    )


def say_answer(findings: Findings) -> list[str]:
    """Say in three sentences what is best, how sure that is, and what mattered; in one without a result."""
    if findings.best is None:
        return [_say_nothing_found(findings)]
    return [_say_best(findings), _say_whether_really(findings), _say_what_mattered(findings)]


def warn_of_data(findings: Findings) -> list[str]:
    """Say what in the data bears on the answer: many images left out, and leaks between the splits."""
    warnings = tell_leaks(findings)
    if findings.share_left_out > MANY_LEFT_OUT:
        warnings.append(
            f"{100 * findings.share_left_out:.1f}% of the images were left out, and nothing here is about "
            f"them: {findings.left_out}."
        )
    return warnings


def _say_nothing_found(findings: Findings) -> str:
    counts = Counter(row["state"] for row in findings.rows)
    if not counts:
        return "No trial has started yet, so there is no answer."
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    reasons = Counter(row["reason"] for row in findings.rows if row["reason"])
    why = f" The commonest reason: {reasons.most_common(1)[0][0]}." if reasons else ""
    number = plural(len(findings.rows), "trial")
    return f"There is no answer: of {number} none has ended with a result ({states}).{why}"


def _say_best(findings: Findings) -> str:
    best, metric = findings.best, findings.study.metric
    assert best is not None
    of_all = "Of the trials, trial" if findings.answer else "Trial"
    head = f"{of_all} {best['trial']} is best ({show_config(best, findings.searched)})"
    early = "" if best["state"] is State.COMPLETE else f", although it was stopped early ({best['state']})"
    if findings.interval is None or findings.predictions is None:
        return (
            f"{head}{early}: {metric} {show_value(metric, best[metric])} at epoch {best['kept_at_epoch']}; "
            "its predictions are missing, so there is no interval."
        )
    value, low, high = findings.interval
    images = f"{len(findings.predictions):,} validation images"
    what = f"classifies {show_value(metric, value)} of {images} right"
    if metric != "val_accuracy":
        what = f"reaches {metric} {show_value(metric, value)} on {images}"
    caution = (
        ""
        if len(findings.rows) < 2 or findings.answer  # whose corrected score says it in numbers
        else (
            f"; it was chosen from {plural(len(findings.rows), 'trial')} on these same images, so expect "
            "a little less on new ones"
        )
    )
    interval = f"95% interval {show_value(metric, low)} to {show_value(metric, high)}"
    return f"{head}{early}: it {what} ({interval}){caution}.{_say_majority(findings)}"


def _say_majority(findings: Findings) -> str:
    """Say what always answering the commonest class would reach, which the best trial has to beat."""
    metric, reached = findings.study.metric, findings.majority_value
    if reached is None or findings.interval is None:
        return ""
    beaten = "" if findings.interval[1] > reached else ", so it is not better than that beyond chance"
    return (
        f" Always answering {findings.majority_name}, the commonest class, would reach "
        f"{show_value(metric, reached)}{beaten}."
    )


def _say_whether_really(findings: Findings) -> str:
    best, rival = findings.best, findings.rival
    assert best is not None
    if rival is None:
        return "There is no second trial with a result to compare it with."
    first = f"trial {best['trial']}"
    early = f", stopped after epoch {rival['epochs']}" if rival["state"] is State.PRUNED else ""
    second = f"the runner-up, trial {rival['trial']} ({show_config(rival, findings.searched)}{early})"
    if findings.tested is None:
        return (
            f"Whether it is really better than {second} cannot be said: both would need saved predictions "
            "for the same images."
        )
    sentence = describe_test(findings.tested, first=first, second=second)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _say_what_mattered(findings: Findings) -> str:
    sentence = f"{_say_importance(findings)}; {_say_cost(findings)}{_say_weakness(findings)}."
    return f"{sentence[0].upper()}{sentence[1:]}"


def _say_importance(findings: Findings) -> str:
    number = len(findings.common_values)
    where = f"after epoch {findings.common_epoch}, which {number:,} trials reached"
    if not findings.importance:
        return f"{plural(number, 'trial')} cannot tell what mattered"
    top = findings.importance[0]
    if top.p_value >= CERTAIN:
        return f"no single hyperparameter stands out from chance ({where})"
    setting = f"it explains {100 * top.explained:.0f}% of the trials' ranking {where}, p = {top.p_value:.3f}"
    best_value = findings.best and findings.best.get(top.name)
    ours = f"; the best trial has {show_setting(top.name, best_value)}" if best_value is not None else ""
    return f"What mattered most was {top.name.replace('_', ' ')} ({setting}{ours})"


def _say_cost(findings: Findings) -> str:
    worked = sum(row["seconds"] or 0.0 for row in findings.rows)
    return f"the search cost {show_seconds(worked)} of worker time for {plural(len(findings.rows), 'trial')}"


def _say_weakness(findings: Findings) -> str:
    predictions = findings.predictions
    if predictions is None:
        return ""
    weak = find_weakest_class(predictions)
    if weak is None:
        return ", and the best trial makes no mistake on the validation images"
    label, recall, other = weak
    confused = f", most often taken for {findings.class_name(other)}"
    return f", and it is weakest on {findings.class_name(label)} ({100 * recall:.0f}% found{confused})"


def find_weakest_class(predictions: Predictions) -> tuple[int, float, int] | None:
    """Return the class of lowest recall, that recall, and its commonest mistake; None without mistakes."""
    right, images, _ = predictions.class_counts
    recall = np.where(images > 0, right / np.maximum(images, 1), 2.0)
    label = int(recall.argmin())
    # Of equally common mistakes the one with the lower number.
    other = next((taken for true, taken, _ in predictions.confusions() if true == label), None)
    return None if other is None else (label, float(recall[label]), other)


def _tiles(findings: Findings) -> str:
    best, metric = findings.best, findings.study.metric
    tiles: list[tuple[str, str]] = []
    if best is not None:
        tiles.append((show_value(metric, best[metric]), f"best {metric}, trial {best['trial']}"))
        recipes = [row for row in findings.rows if row["recipe"] and row.get(metric) is not None]
        if recipes:
            tiles.append(
                (show_value(metric, recipes[0][metric]), f"best published recipe ({recipes[0]['recipe']})")
            )
        reached = findings.majority_value
        if reached is not None and findings.study.maximize:
            label = f"always answering {findings.majority_name}, {len(findings.classes):,} classes"
            tiles.append((show_value(metric, reached), label))
    counts = Counter(row["state"] for row in findings.rows)
    states = ", ".join(f"{number} {state}" for state, number in counts.items()) or "none yet"
    tiles.append((f"{len(findings.rows):,}", f"trials: {states}"))
    moments = [row[name] for row in findings.rows for name in ("started", "ended") if row[name] is not None]
    if moments:
        tiles.append((show_seconds(max(moments) - min(moments)), "from the first start to the last end"))
    inside = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label in tiles
    )
    return f'<div class="tiles">{inside}</div>'


def suggest_next_steps(findings: Findings) -> list[str]:
    """Advice that follows from the study's own figures, each piece with its reason."""
    steps: list[str] = []
    best = findings.best
    if best is not None:
        steps += _more_epochs(findings)
        steps += _edges_of_the_space(findings)
        steps += _settle_the_first_place(findings)
        advice = findings.majority and suggest_metric(findings.study.metric, findings.majority)
        steps += [advice] if advice else []
    steps += _failures(findings)
    if best is not None and len(findings.rows) < FEW_TRIALS and len(findings.searched) > 2:
        steps.append(
            f"More trials: {len(findings.rows)} are few for {len(findings.searched)} hyperparameters. "
            "Run the same command with a larger --trials; finished trials are not repeated."
        )
    return steps


def _more_epochs(findings: Findings) -> list[str]:
    best = findings.best
    assert best is not None
    curve = findings.curves.get(best["trial"], Curve())
    if best["epochs"] != best.get("max_epochs") or len(curve.values) <= RISING_EPOCHS:
        return []
    *before, last = (findings.study.direction.sign * value for value in curve.values)
    if not all(last > score for score in before if not math.isnan(score)):
        return []
    gain = abs(curve.values[-1] - curve.values[-1 - RISING_EPOCHS])
    metric = findings.study.metric
    return [
        f"More epochs: the best trial was still improving at its last epoch ({metric} changed by "
        f"{gain:.4f} over the last {RISING_EPOCHS}). A new study with a larger --max-epochs would show."
    ]


def _edges_of_the_space(findings: Findings) -> list[str]:
    best = findings.best
    assert best is not None
    steps = []
    for name in findings.searched:
        values = sorted({row[name] for row in findings.rows if _is_number(row.get(name))})
        value = best.get(name)
        if len(values) < 4 or not _is_number(value):
            continue
        if value in (values[0], values[-1]) and not (value == 0 and values[0] == 0):
            side = "smallest" if value == values[0] else "largest"
            steps.append(
                f"A wider range for {name.replace('_', ' ')}: the best trial has the {side} value that was "
                f"tried ({value:.3g})."
            )
    return steps


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _settle_the_first_place(findings: Findings) -> list[str]:
    tested = findings.tested
    if tested is None or tested.is_better or tested.is_worse:
        return []
    more = "groups of validation images" if tested.is_grouped else "validation images"
    few = f", or more {more}" if tested.num_groups < FEW_IMAGES else ""
    metric = findings.study.metric
    half = (tested.high - tested.low) / 2
    amount = f"{100 * half:.1f} points" if is_share(metric) else f"{half:.4f}"
    return [
        f"The first two cannot be told apart: differences below about {amount} are noise "
        f"with {tested.num_groups:,} {more}. Take the cheaper one, or repeat both with other "
        f"seeds{few}."
    ]


def _failures(findings: Findings) -> list[str]:
    reasons = Counter(row["reason"] or "unknown" for row in findings.rows if row["state"] is State.FAILED)
    advice: dict[str, str] = {
        Reason.OUT_OF_MEMORY: "a micro batch size, a smaller --image-size or fewer trials at once",
        Reason.DIVERGED: "a lower upper bound for the learning rate",
        Reason.DATA: "a look at the data; the section Failures has the message",
        Reason.ACCELERATOR: "another GPU or driver; the section Failures has its error",
        Reason.BUG: "a look at the traceback in the section Failures",
    }
    return [
        f"{plural(number, 'trial')} failed ({reason}): try "
        f"{advice.get(reason, 'a look at the section Failures')}."
        for reason, number in reasons.most_common()
    ]
