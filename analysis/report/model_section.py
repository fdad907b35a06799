"""The model in the report: what it is, how good it will be on new images, what it costs, what would help."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.answer.record import Answer
from analysis.answer.words import (
    NAMES,
    describe_higher,
    find_reading,
    has_test_split,
    mark_later,
    name_metric,
    show_reading,
)
from analysis.readings import TestReading
from analysis.report.findings import Findings
from analysis.report.page import show_config, show_value
from contract.files import plural
from contract.html import bullets, paragraph, table

USEFUL_MISSES = 0.5
"""From this share of a hidden class's images that slip through on, the threshold is not to be relied on."""

LITTLE = 0.01
"""Gain of the second half of the photos below which more of them would hardly help."""

VERDICTS = {
    "The others are compared with it": "the others are compared with it",
    "It costs more, and its gain cannot be told from chance": "costs more, gain within chance",
    "It costs more, and its accuracy is lower": "costs more, lower accuracy",
    "It costs no more, but log-loss or accuracy is worse": "costs no more, but is worse",
    "It costs no more, and neither log-loss nor accuracy is worse": "costs no more and is no worse",
    "Its gain is beyond chance, and its accuracy is not lower": "better beyond chance",
}
"""What the report's table says for the reasons of the rules, which have figures in brackets after them."""


def model_parts(findings: Findings) -> list[str]:
    """Tell the answer as pieces of HTML: the model, its three numbers, and what follows; none without one."""
    answer = findings.answer
    if answer is None:
        return []
    reading = find_reading(findings.study.directory, findings.readings)
    parts = [paragraph(sentence, kind="answer") for sentence in say_model(findings)]
    has_test = has_test_split(findings.study)
    parts += [
        _scores_table(answer, reading, has_test=has_test),
        paragraph(say_why_believed(answer), kind="note"),
    ]
    titled = {
        "What the test split said": bullets(say_compared(reading)),
        "What it costs": paragraph(say_cost(answer)),
        "What would improve it": bullets(say_improvements(findings)),
        "What else to know before you use it": bullets(say_limits(answer, reading)),
        "Other ways to make a model of these trials": _rules_table(answer),
    }
    return parts + [f"<h3>{title}</h3>{body}" for title, body in titled.items() if body]


def say_model(findings: Findings) -> list[str]:
    """Say in three sentences what the model is, how good, and what the test split said; none without one."""
    answer = findings.answer
    if answer is None:
        return []
    return [_say_what(findings, answer), _say_how_good(answer), _say_reading(findings)]


def _say_what(findings: Findings, answer: Answer) -> str:
    if len(answer.refs) == 1:
        name = answer.refs[0].name
        row = next((row for row in findings.rows if name == f"trial {row['trial']}"), None)
        config = f" ({show_config(row, findings.searched)})" if row else ""
        higher = describe_higher(answer)
        beside = f" {higher[0].upper()}{higher[1:]}." if higher else ""
        return f"The model is {name}{config}.{beside}{_say_preferred(answer)}"
    prefix = ", which share the frozen part of the backbone" if answer.rule == "prefix_ensemble" else ""
    names = ", ".join(ref.name for ref in answer.refs)
    return (
        f"The model is {plural(len(answer.refs), 'classifier')} in one ({names}){prefix}: it averages "
        f"their {answer.combination.pooling.value}.{_say_preferred(answer)}"
    )


def _say_preferred(answer: Answer) -> str:
    """Say why it is this model and not a simpler one, where there was a choice."""
    if answer.why == "It was asked for.":
        return f" It was asked for with --rule {answer.rule}."
    others = [rule for rule in answer.rules if not rule["is_chosen"]]
    if not others:
        return ""
    if answer.rule == "single":
        return " No combination of several trials was better beyond chance, or at no higher cost."
    gain = next((rule["gain"] for rule in answer.rules if rule["is_chosen"]), None)
    if gain is None or gain["low"] <= 0:
        return ""
    return (
        f" It beats the best single trial beyond chance: its log-loss is lower by {gain['value']:.3f} "
        f"(95% interval {gain['low']:.3f} to {gain['high']:.3f}), on images that neither was chosen by."
    )


def _say_how_good(answer: Answer) -> str:
    metric, score = answer.metric, answer.scores[answer.metric]
    value, low, high, chosen = (
        show_value(metric, score[name]) for name in ("corrected", "low", "high", "as_chosen")
    )
    what = f"that it classifies {value} right" if metric == "val_accuracy" else f"{name_of(metric)} {value}"
    return (
        f"On new images expect {what} (95% interval {low} to {high}); on the images that it was chosen by it "
        f"reaches {chosen}."
    )


def say_why_believed(answer: Answer) -> str:
    """Say how the corrected score comes about, and why the one it was chosen by is not it."""
    groups = f" in {answer.groups:,} groups" if answer.groups < answer.images else ""
    candidates = plural(int(answer.facts["candidates"]), "candidate")
    refitted = (
        " The model was trained again on train and validation images: the first two are of the one before."
        if "selected" in answer.facts
        else ""
    )
    calibrated = " The first two are those before calibration." if "calibration" in answer.facts else ""
    return (
        f"As chosen: on the {answer.images:,} validation images{groups} that the model was chosen by, so it "
        f"flatters. Corrected: the whole choice among {candidates} was repeated on samples of these "
        "images, and scored each time on the images outside the sample. Test split: images that neither "
        f"training nor choice has seen.{calibrated}{refitted}"
    )


def _say_reading(findings: Findings) -> str:
    readings, study = findings.readings, findings.study
    own = find_reading(study.directory, readings)
    if own is not None:
        return _say_own_reading(own)
    if not has_test_split(study):
        return "The data have no test split, so the corrected score is all there is."
    before = (
        f" {plural(len(readings), 'other model')} of this study "
        f"{'has' if len(readings) == 1 else 'have'} been read there, so a reading of this one will be marked "
        "as a later one."
        if readings
        else ""
    )
    return (
        "The test split is not read yet. When you have settled on this model, read it once: "
        f"python finalize.py {study.name} --test.{before}"
    )


def _say_own_reading(own: TestReading) -> str:
    when = datetime.fromtimestamp(own.created, UTC).strftime("%d %B %Y").lstrip("0")
    scores = own.record["scores"]
    accuracy, loss = scores["accuracy"], scores["loss"]
    said = (
        f"On the test split, read on {when}, it classifies {100 * accuracy['value']:.1f}% of {own.images:,} "
        f"images right (95% interval {100 * accuracy['low']:.1f}% to {100 * accuracy['high']:.1f}%), with a "
        f"log-loss of {loss['value']:.3f}."
    )
    if own.reading == 1:
        return said
    return (
        f"{said} This is{mark_later(own).lstrip(',')}: an earlier one may have led to this model, so that "
        "this number may flatter, too."
    )


def say_compared(reading: TestReading | None) -> list[str]:
    """Say how the model compares with the best single trial and recipe on the test split."""
    if reading is None:
        return []
    said = [one["accuracy"]["said"] for one in reading.record["compared"] if "accuracy" in one]
    if "coverage" in reading.record:
        said.append(str(reading.record["coverage"]["said"]).removesuffix("."))
    if point := reading.record.get("at_operating_point"):
        shown = ", ".join(
            f"{name.replace('_', ' ')} {100 * point[name]:.1f}%"
            for name in ("precision", "recall", "false_alarms")
            if point.get(name) is not None
        )
        said.append(f"At the operating point: {shown}")
    return [f"{one[0].upper()}{one[1:]}{mark_later(reading)}." for one in said]


def say_cost(answer: Answer) -> str:
    """Say how long an image takes, beside the best single trial; "" where it was not measured."""
    by_rule = {rule["rule"]: rule.get("milliseconds") for rule in answer.rules}
    mine, single = by_rule.get(answer.rule), by_rule.get("single")
    if not mine:
        return ""
    beside = (
        f", {mine / single:.1f} times the best single trial" if single and answer.rule != "single" else ""
    )
    return (
        f"One image takes about {mine:.{0 if mine >= 100 else 1}f} ms{beside}. It was measured once, on the "
        "machine that made the model and with whatever else ran there: read it as a comparison."
    )


def say_improvements(findings: Findings) -> list[str]:
    """Say what would make the model better, or its score surer."""
    answer = findings.answer
    if answer is None:
        return []
    said = [say_more_photos(answer.facts["more_photos"])] if "more_photos" in answer.facts else []
    least = 100 * answer.facts["smallest_difference"]
    said.append(
        f"More validation images make scores surer: with {answer.images:,} of them, differences of less than "
        f"{least:.1f} points of accuracy cannot be shown."
    )
    ways = []
    if "seeds" not in answer.facts:
        ways.append("--seeds 3 trains the chosen configurations again, as further candidates")
    if not answer.facts.get("wishes", {}).get("refit"):
        ways.append("--refit trains them on training and validation images together")
    if ways:
        said.append(f"More effort, with python finalize.py {findings.study.name}: {'; '.join(ways)}.")
    return said


def say_more_photos(curve: Mapping[str, Any]) -> str:
    """Say whether more photos would help, and by what that was judged."""
    if not curve["shares"]:
        return f"Whether more photos would help cannot be judged: {curve['note']}."
    if curve["helps"]:
        verdict = "More photos would help"
    else:
        verdict = (
            "More photos of this kind would hardly help" if curve["high"] < LITTLE else "More photos may help"
        )
    steps = ", ".join(f"{100 * one['accuracy']:.1f}%" for one in curve["shares"])
    whole = curve["shares"][-1]["num_images"]
    sampled = f", {curve['note']}" if curve["note"] else ""
    return (
        f"{verdict}: with 25, 50 and 100% of the {whole:,} training photos{sampled}, a linear probe on "
        f"frozen features reaches {steps}. The second half brought {100 * curve['gain']:+.1f} points (95% "
        f"interval {100 * curve['low']:+.1f} to {100 * curve['high']:+.1f})."
    )


def say_limits(answer: Answer, reading: TestReading | None) -> list[str]:
    """Say what holds of its probabilities, of two classes, and of images of classes that it does not know."""
    facts = answer.facts
    said = []
    if ranking := facts.get("ranking"):
        said.append(_say_ranking(ranking, reading))
    if "metric_note" in facts:
        said.append(str(facts["metric_note"]))
    if "operating_point" in facts:
        said.append(str(facts["operating_point"]["said"]))
    if calibration := facts.get("calibration"):
        said.append(
            f"Its probabilities are calibrated, by a temperature of {calibration['temperature']:.2f}: on the "
            f"validation images log-loss was {calibration['loss_before']:.3f} before and is "
            f"{calibration['loss_after']:.3f} after."
        )
    if sets := facts.get("prediction_sets"):
        said.append(
            f"Where one class is too little: the likeliest one and all others with a probability of "
            f"{sets['least']:.2f} or more hold the right one for about {1 - sets['alpha']:.0%} of new images."
        )
    if "unknown" in facts:
        said.append(say_unknown(facts["unknown"]))
    return said


def _say_ranking(ranking: Mapping[str, Any], reading: TestReading | None) -> str:
    def shown(found: Mapping[str, Any]) -> str:
        auroc, precision = found["auroc"], found["average_precision"]
        return (
            f"AUROC {auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f}), average precision "
            f"{precision['value']:.3f} ({precision['low']:.3f} to {precision['high']:.3f})"
        )

    said = f'Ranked by the probability of "{ranking["positive"]}": {shown(ranking)} as chosen'
    if reading is None or "ranking" not in reading.record:
        return f"{said}; not corrected, and not read from a test split."
    return f"{said}; on the test split {shown(reading.record['ranking'])}{mark_later(reading)}."


def say_unknown(unknown: Mapping[str, Any]) -> str:
    """Say what becomes of images of other classes, and that a probe stood for the model to learn it."""
    head = "Images of other classes: it names one of its own whatever it is shown."
    threshold, missed = unknown["threshold"], unknown["missed"]
    if threshold is None:
        return f"{head} There are too few validation images for a threshold that would tell others apart."
    alarms = unknown["false_alarms"]["value"]
    kept = f"A threshold marks odd ones, and by mistake {100 * alarms:.1f}% of images of its own classes"
    if missed is None:
        return f"{head} {kept}; how many others it finds cannot be judged: {unknown['note']}."
    auroc = sum(one["auroc"][unknown["score"]] for one in unknown["hidden"]) / len(unknown["hidden"])
    use = " So do not rely on it." if missed["value"] > USEFUL_MISSES else ""
    return (
        f"{head} {kept}; of a class that it never saw, {100 * missed['value']:.0f}% pass unmarked.{use} "
        f"This was measured by hiding {len(unknown['hidden'])} classes in turn from a linear probe on frozen "
        f"features, which stands for the model (AUROC {auroc:.2f})."
    )


def name_of(metric: str) -> str:
    """Name a metric of the answer as people read it."""
    return {"val_loss": "log-loss"}.get(metric, name_metric(metric))


def _scores_table(answer: Answer, reading: TestReading | None, *, has_test: bool) -> str:
    """As chosen, corrected and read from the test split, always together: a row each."""
    heads, chosen, corrected, read = [""], ["as chosen"], ["corrected (95% interval)"], ["test split"]
    for metric, score in answer.scores.items():
        value, low, high = (show_value(metric, score[name]) for name in ("corrected", "low", "high"))
        heads.append(name_of(metric))
        chosen.append(show_value(metric, score["as_chosen"]))
        corrected.append(f"{value} ({low} to {high})")
        read.append(show_reading(metric, reading, has_test=has_test))
    return table(heads, (chosen, corrected, read), wraps=True)


def _rules_table(answer: Answer) -> str:
    """What each rule would have made, and why it was taken or not; "" where there was no choice."""
    if len(answer.rules) < 2:
        return ""
    rows = []
    for rule in answer.rules:
        name = NAMES.get(rule["rule"], rule["rule"])
        verdict = rule["reason"].partition(" (")[0].rstrip(".")
        verdict = VERDICTS.get(verdict, verdict[:1].lower() + verdict[1:])
        cost = rule.get("milliseconds")
        shown = [
            f"{show_value(metric, rule['scores'][metric]['corrected'])}" if metric in rule["scores"] else "–"
            for metric in ("val_accuracy", "val_loss")
        ]
        rows.append(
            (
                f"{name} (chosen)" if rule["is_chosen"] else name,
                verdict,
                len(rule["members"]),
                *shown,
                "–" if cost is None else f"{cost:.1f}",
            )
        )
    heads = ("", "verdict", "classifiers", "accuracy, corrected", "log-loss, corrected", "ms an image")
    return table(heads, rows, numeric_from=2, wraps=True)
