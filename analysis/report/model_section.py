"""The model in the report: what it is, how good it will be on new images, what it costs, what would help."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.answer.words import NAMES, SHOWN, find_reading, mark_later, show_reading
from analysis.report.findings import Findings
from analysis.report.page import show_config, show_value
from contract.files import plural
from contract.html import table


def say_model(findings: Findings) -> list[str]:
    """Say in a few sentences what the answer is and why its score can be believed; none without an answer."""
    if findings.answer is None:
        return []
    return [_say_what(findings), _say_how_good(findings), _say_reading(findings), *_say_rest(findings)]


def model_tables(findings: Findings) -> list[str]:
    """The three numbers of each metric, and what every rule would have chosen; none without an answer."""
    if findings.answer is None:
        return []
    return [_scores_table(findings), _rules_table(findings)]


def _say_what(findings: Findings) -> str:
    answer = findings.answer
    assert answer is not None
    number = len(answer.refs)
    cost = _cost_of(answer.rules)
    if number == 1:
        name = answer.refs[0].name
        row = next((row for row in findings.rows if name == f"trial {row['trial']}"), None)
        config = f" ({show_config(row, findings.searched)})" if row else ""
        return f"The model is {name}{config}{cost}. {answer.why}"
    names = ", ".join(ref.name for ref in answer.refs)
    how = {
        "logits": "the mean of their logits",
        "probabilities": "the mean of their probabilities",
    }[answer.combination.pooling.value]
    prefix = " on one frozen prefix" if answer.rule == "prefix_ensemble" else ""
    return f"The model is {how} of {number} classifiers{prefix} ({names}){cost}. {answer.why}"


def _cost_of(rules: tuple[Mapping[str, Any], ...]) -> str:
    chosen = next((rule for rule in rules if rule["is_chosen"]), None)
    single = next((rule for rule in rules if rule["rule"] == "single"), None)
    if chosen is None or chosen.get("milliseconds") is None:
        return ""
    cost = f"; an image takes it about {chosen['milliseconds']:.1f} ms on the machine that made it"
    if single is None or single is chosen or not single.get("milliseconds"):
        return cost
    return f"{cost}, {chosen['milliseconds'] / single['milliseconds']:.1f} times the best single trial"


def _say_how_good(findings: Findings) -> str:
    answer = findings.answer
    assert answer is not None
    metric = answer.metric
    score = answer.scores[metric]
    groups = f" in {answer.groups:,} groups" if answer.groups < answer.images else ""
    what = f"{show_value(metric, score['corrected'])} {metric.removeprefix('val_').replace('_', ' ')}"
    low, high, chosen = (show_value(metric, score[name]) for name in ("low", "high", "as_chosen"))
    candidates = plural(int(answer.facts["candidates"]), "candidate")
    return (
        f"On new images expect {what} (95% interval {low} to {high}). It looks like {chosen} on the "
        f"{answer.images:,} validation images{groups}, which is too good for having been chosen there: the "
        f"whole choice among {candidates} was repeated on resamples and scored on the images that each "
        "left out."
    )


def _say_reading(findings: Findings) -> str:
    readings = findings.readings
    own = find_reading(findings.study.directory, readings)
    if own is None:
        before = (
            f" ({plural(len(readings), 'reading')} of other models: one of this model will be marked as a "
            "later one)"
            if readings
            else ""
        )
        command = f"python finalize.py {findings.study.name} --test"
        return f"The test split is not read yet{before}: {command} reads it, once."
    when = datetime.fromtimestamp(own.created, UTC).strftime("%Y-%m-%d")
    scores = own.record["scores"]
    accuracy, loss = scores["accuracy"], scores["loss"]
    said = (
        f"On the test split, read on {when}, it classifies {100 * accuracy['value']:.1f}% of {own.images:,} "
        f"images right (95% interval {100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}%), log-loss "
        f"{loss['value']:.3f}"
    )
    if own.reading > 1:
        said += f"{mark_later(own)}: the model may have been chosen by an earlier one"
    compared = [
        one["accuracy"]["said"][0].upper() + one["accuracy"]["said"][1:] + "."
        for one in own.record["compared"]
        if "accuracy" in one
    ]
    return " ".join([f"{said}.", *compared])


def _say_rest(findings: Findings) -> list[str]:
    answer = findings.answer
    assert answer is not None
    facts = answer.facts
    least = 100 * facts["smallest_difference"]
    found = [
        f"Differences of less than {least:.1f} points of accuracy cannot be shown with these "
        f"{answer.images:,} images."
    ]
    for name in ("operating_point", "more_photos", "unknown"):
        if name in facts:
            found.append(str(facts[name]["said"]))
    for one in facts.get("seeds", ()):
        values = ", ".join(show_value(answer.metric, value) for value in one["values"])
        found.append(
            f"Trial {one['trial']} with {plural(len(one['values']), 'seed')}: {answer.metric} mean "
            f"{show_value(answer.metric, one['mean'])}, standard deviation "
            f"{show_value(answer.metric, one['deviation'])} ({values})."
        )
    for one in facts.get("folds", ()):
        found.append(
            f"Trial {one['trial']} in {one['folds']} folds over {one['images']:,} training and validation "
            f"images: accuracy {show_value('val_accuracy', one['accuracy'])} (95% interval "
            f"{show_value('val_accuracy', one['low'])} to {show_value('val_accuracy', one['high'])})."
        )
    return found


def _scores_table(findings: Findings) -> str:
    """As chosen, corrected and read from the test split, always together."""
    answer = findings.answer
    assert answer is not None
    reading = find_reading(findings.study.directory, findings.readings)
    rows = []
    for metric, score in answer.scores.items():
        corrected = (
            f"{show_value(metric, score['corrected'])} ({show_value(metric, score['low'])} to "
            f"{show_value(metric, score['high'])})"
        )
        rows.append(
            (
                metric.removeprefix("val_").replace("_", " "),
                show_value(metric, score["as_chosen"]),
                corrected,
                show_reading(metric, reading),
            )
        )
    heads = ("metric", "as chosen", "corrected, 95% interval", "test split")
    return table(heads, rows)


def _rules_table(findings: Findings) -> str:
    answer = findings.answer
    assert answer is not None
    rows = []
    for rule in answer.rules:
        shown = [
            f"{show_value(name, rule['scores'][name]['corrected'])}" if name in rule["scores"] else "–"
            for name in SHOWN
        ]
        cost = rule.get("milliseconds")
        rows.append(
            (
                NAMES.get(rule["rule"], rule["rule"]) + (" (chosen)" if rule["is_chosen"] else ""),
                str(len(rule["members"])),
                *shown,
                "–" if cost is None else f"{cost:.1f}",
                rule["reason"],
            )
        )
    heads = ("rule", "members", "accuracy, corrected", "log-loss, corrected", "ms an image", "why")
    return table(heads, rows)
