"""The answer in words, as the commands print it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.answer.record import Answer, load_answer
from analysis.reading import StudyInfo, load_study
from analysis.readings import TestReading, load_readings
from contract.metrics import is_share
from contract.model_layout import ModelPaths

NAMES = {
    "single": "the best single trial",
    "prefix_ensemble": "an ensemble on one frozen prefix",
    "ensemble": "an ensemble",
    "soup": "an average of weights",
    "mean": "the mean of all recipes",
    "cascade": "a cascade of two models",
}
"""What the rules make, in words."""

SHOWN = ("val_accuracy", "val_loss")


def name_answer(answer: Answer) -> str:
    """Name in words what the rule made, which may be one classifier where it could have been several."""
    return name_rule(answer.rule, len(answer.refs))


def name_rule(rule: str, num_members: int) -> str:
    """Name in words what a rule made of so many members."""
    is_alone = num_members == 1 and rule not in ("single", "soup")
    return "one classifier alone" if is_alone else NAMES.get(rule, rule)


def name_metric(metric: str) -> str:
    """Name a metric of validation images in words, without saying that they are validation images."""
    return metric.removeprefix("val_").replace("_", " ")


def describe_answer(
    answer: Answer, reading: TestReading | None = None, *, has_test: bool = True
) -> list[str]:
    """Say what was chosen, and its three numbers: as chosen, corrected, and on the test split."""
    members = ", ".join(ref.name for ref in answer.refs)
    lines = describe_scores(answer.scores, (*SHOWN, answer.metric), reading, has_test=has_test)
    said = [higher] if (higher := describe_higher(answer)) else []
    said += [str(answer.facts["operating_point"]["said"])] if "operating_point" in answer.facts else []
    said += [str(answer.facts["metric_note"])] if "metric_note" in answer.facts else []
    return [f"the answer is {name_answer(answer)}: {members}", *lines, *said]


def describe_higher(answer: Answer) -> str:
    """Say why the trial that is highest by the metric is not the model; "" where it is."""
    higher = answer.facts.get("higher")
    if higher is None:
        return ""
    name, value = name_metric(answer.metric), show(answer.metric, higher["value"])
    return (
        f"{higher['name']} has the higher {name} ({value}), by at most one standard error: of the candidates "
        f"as good as it, {higher['than']} has the lowest log-loss"
    )


def describe_cascade(
    card: Mapping[str, Any],
    reading: TestReading | None,
    second: TestReading | None,
    *,
    has_test: bool = True,
) -> list[str]:
    """Say what a cascade is made of, and its three numbers.

    Args:
        card: of the model.
        reading: of the test split, as the first study has it.
        second: the same as the second study has it, which may have been read before.
    """
    first, then = (part["study"] for part in card["parts"])
    lines = [f"cascade: {card['one']} or not by {first}, the other classes by {then}"]
    if reading is not None and second is not None and second.reading > reading.reading:
        reading = second
    if card["scores"]:
        return lines + describe_scores(card["scores"], SHOWN, reading, has_test=has_test)
    lines.append(
        "a part was trained on the validation images too, so only the test split can tell how good it is"
    )
    for metric in SHOWN:
        lines.append(f"{name_metric(metric)}: test split {show_reading(metric, reading, has_test=has_test)}")
    return lines


def describe_scores(
    scores: Mapping[str, Mapping[str, float]],
    metrics: Iterable[str],
    reading: TestReading | None,
    *,
    has_test: bool = True,
) -> list[str]:
    """Say the three numbers of each of these metrics that there is."""
    lines = []
    for metric in dict.fromkeys(metrics):
        score = scores.get(metric)
        if score is None:
            continue
        chosen, corrected, low, high = (
            show(metric, score[key]) for key in ("as_chosen", "corrected", "low", "high")
        )
        lines.append(
            f"{name_metric(metric)}: {chosen} as chosen, {corrected} corrected for the choice (95% interval "
            f"{low} to {high}), test split {show_reading(metric, reading, has_test=has_test)}"
        )
    return lines


def summarise_answer(study: StudyInfo) -> str:
    """Say in one line what the answer of a study is, with its three numbers; "" where there is none."""
    answer = load_answer(study.paths)
    if answer is None:
        return ""
    score, metric = answer.scores[answer.metric], answer.metric
    chosen, corrected, low, high = (
        show(metric, score[key]) for key in ("as_chosen", "corrected", "low", "high")
    )
    members = ", ".join(ref.name for ref in answer.refs)
    has_test = has_test_split(study)
    reading = show_reading(metric, find_reading(study.directory), has_test=has_test)
    return (
        f"answer: {name_answer(answer)} ({members}), {metric} {corrected} corrected (95% "
        f"interval {low} to {high}), {chosen} as chosen, test split {reading}"
    )


def has_test_split(study: StudyInfo) -> bool:
    """False where the images were cut without a test split."""
    return (study.facts.get("data") or {}).get("num_test") != 0


def show_reading(metric: str, reading: TestReading | None, *, has_test: bool = True) -> str:
    """Show a metric of a reading of the test split with its interval, or that there is none."""
    if reading is None:
        return "not read yet" if has_test else "there is none"
    found = reading.record["scores"].get(metric.removeprefix("val_"))
    if found is None:
        return "does not have it"
    value, low, high = (show(metric, found[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})" + mark_later(reading)


def mark_later(reading: TestReading) -> str:
    """Mark a reading that an earlier one may have influenced; empty for the first."""
    return "" if reading.reading == 1 else f", reading number {reading.reading} of this split"


def show(metric: str, value: float) -> str:
    """Format a value: shares in percent, others with four decimals."""
    return f"{100 * value:.1f}%" if is_share(metric) else f"{value:.4f}"


def find_reading(
    study_dir: Path, readings: Sequence[TestReading] | None = None, *, model: ModelPaths | None = None
) -> TestReading | None:
    """Find the reading of a model, by default the study's own; None if it has not read the test split."""
    study = load_study(study_dir)
    digest = (model or study.paths.model).identity()
    found = load_readings(study) if readings is None else readings
    return next((one for one in found if one.digest == digest), None)


def say_next(study_dir: Path, *, has_test: bool) -> str:
    """Name the command that reads the test split, or say that there is none to read."""
    if not has_test:
        return "the data have no test split: the corrected score is all there is"
    if find_reading(study_dir) is not None:
        return f"python finalize.py {study_dir} makes it again with more effort (--seeds, --folds, --refit)"
    return f"python finalize.py {study_dir} --test reads the test split, once"
