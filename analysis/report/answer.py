"""The answer in three sentences, computed from the study: what is best, is it really, what mattered."""

from __future__ import annotations

from collections import Counter

import numpy as np

from analysis.comparison import describe_verdict, is_share
from analysis.predictions import Predictions
from analysis.report.findings import Findings
from analysis.report.next_steps import suggest_next_steps
from analysis.report.page import Section, bullets, escape, make_section, paragraph
from analysis.report.wording import plural, show_config, show_seconds, show_setting, show_value

CERTAIN = 0.05


def answer_section(findings: Findings) -> Section:
    steps = suggest_next_steps(findings)
    return make_section(
        "answer",
        "The answer",
        *(paragraph(sentence, kind="answer") for sentence in say_answer(findings)),
        _tiles(findings),
        "<h3>What to try next</h3>" + bullets(steps) if steps else "",
    )


def say_answer(findings: Findings) -> list[str]:
    """Three sentences; fewer where there is less to say."""
    if findings.best is None:
        return [_say_nothing_found(findings)]
    return [_say_best(findings), _say_verdict(findings), _say_what_mattered(findings)]


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
    head = f"Trial {best['trial']} is best ({show_config(best, findings.searched)})"
    early = "" if best["state"] == "complete" else f", although it was stopped early ({best['state']})"
    if findings.interval is None or findings.predictions is None:
        return (
            f"{head}{early}: {metric} {show_value(metric, best[metric])} at epoch {best['best_epoch']}; "
            "its predictions are missing, so there is no interval."
        )
    value, low, high = findings.interval
    images = f"{len(findings.predictions):,} validation images"
    what = f"classifies {show_value(metric, value)} of {images} right"
    if metric != "val_accuracy":
        what = f"reaches {metric} {show_value(metric, value)} on {images}"
    caution = (
        ""
        if len(findings.rows) < 2
        else (
            f"; it was chosen from {plural(len(findings.rows), 'trial')} on these same images, so expect "
            "a little "
            "less on new ones"
        )
    )
    interval = f"95% interval {show_value(metric, low)} to {show_value(metric, high)}"
    return f"{head}{early}: it {what} ({interval}){caution}."


def _say_verdict(findings: Findings) -> str:
    best, rival = findings.best, findings.rival
    assert best is not None
    if rival is None:
        return "There is no second trial with a result to compare it with."
    first = f"trial {best['trial']}"
    early = f", stopped after epoch {rival['epochs']}" if rival["state"] == "pruned" else ""
    second = f"the runner-up, trial {rival['trial']} ({show_config(rival, findings.searched)}{early})"
    if findings.verdict is None:
        return (
            f"Whether it is really better than {second} cannot be said: both would need saved predictions "
            "for the same images."
        )
    sentence = describe_verdict(findings.verdict, first=first, second=second)
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
    """Class with the lowest recall, its recall, and what it is taken for; None without a mistake."""
    confusion = predictions.confusion
    images = confusion.sum(axis=1)
    recall = np.where(images > 0, confusion.diagonal() / np.maximum(images, 1), 2.0)
    label = int(recall.argmin())
    wrong = confusion[label].copy()
    wrong[label] = 0
    return (label, float(recall[label]), int(wrong.argmax())) if wrong.any() else None


def _tiles(findings: Findings) -> str:
    best, metric, study = findings.best, findings.study.metric, findings.study
    tiles: list[tuple[str, str]] = []
    if best is not None:
        tiles.append((show_value(metric, best[metric]), f"best {metric}, trial {best['trial']}"))
        recipes = [row for row in findings.rows if row["recipe"] and row.get(metric) is not None]
        if recipes:
            tiles.append(
                (show_value(metric, recipes[0][metric]), f"best published recipe ({recipes[0]['recipe']})")
            )
        if is_share(metric) and study.maximize and findings.classes:
            chance = 1 / len(findings.classes)
            tiles.append((show_value(metric, chance), f"by chance, {len(findings.classes)} classes"))
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
