"""Section on groups: which images were taken to belong together, and what leaks between the splits."""

from __future__ import annotations

import numpy as np

from analysis.comparison import confidence_interval, number_groups
from analysis.predictions import Array
from analysis.report.findings import Findings
from analysis.report.page import share, show_value
from contract.files import plural, printable
from contract.html import Section, make_section, paragraph
from contract.metrics import is_share

NAMED = 5
"""Leaked images that are named; the others are counted."""

MOSTLY = 0.5
"""Share of the images in groups of several, from which on it is said what labels by group mean."""


MANY_GROUPS = 20
"""Groups of validation images from which on their number needs no word."""

FEW_GROUPS = "So few groups leave wide intervals: more groups help, more images of the same ones do not."

ADVICE = (
    "If several images show one object, patient or place, say so (--group-by, or a column group in a table): "
    "a model that recognises the object and not its class scores near 1 on images of objects that it was "
    "trained on, and may be near chance on others."
)


def groups_section(findings: Findings) -> Section:
    if not len(findings.images):
        return make_section("groups", "Groups and leaks", paragraph("The study has no data.csv yet."))
    leaks = tell_leaks(findings)
    return make_section(
        "groups",
        "Groups and leaks",
        paragraph(tell_groups(findings)),
        *(paragraph(sentence, kind="warning") for sentence in leaks),
        "" if leaks else paragraph("No validation or test image has one of its own group in training."),
    )


def tell_groups(findings: Findings) -> str:
    """Say which grouping was in force, and what the score means under it."""
    images = findings.images
    if not images.is_grouped:
        return (
            f"No grouping was in force: each of the {len(images):,} images counts as its own group. {ADVICE}"
        )
    sizes = np.unique(images.groups, return_counts=True)[1]
    val = images.of("val")
    num_val = len(np.unique(images.groups[val]))
    asked = (findings.study.facts.get("flags") or {}).get("group_by")
    what = f"--group-by {asked}" if asked else "the table's column group"
    parts = [
        f"The {len(images):,} images are {plural(images.num_groups, 'group')}, the largest of "
        f"{plural(int(sizes.max()), 'image')}: copies, near copies, and what {what} puts together. The "
        f"{plural(len(val), 'validation image')} are {plural(num_val, 'group')}, and these are the units of "
        "every interval and test.",
        _tell_labels_by_group(findings),
        ADVICE if not asked and sizes[sizes > 1].sum() < MOSTLY * len(images) else "",
        "" if num_val >= MANY_GROUPS else FEW_GROUPS,
    ]
    return " ".join(part for part in parts if part)


def _tell_labels_by_group(findings: Findings) -> str:
    """Say what it means that all images of each group have one label; empty if it is not so."""
    images = findings.images
    if len(images.leaked("val")):
        return ""
    cells = np.unique(np.stack([images.groups, images.labels]), axis=1)
    sizes = np.unique(images.groups, return_counts=True)[1]
    if cells.shape[1] > images.num_groups or sizes[sizes > 1].sum() < MOSTLY * len(images):
        return ""
    text = (
        "All images of a group have the same label, so a model can learn to recognise the groups instead of "
        "the classes. Cut through its groups the same data would reward that with a score near 1; here "
        "whole groups are held out, and the score is for groups that training has not seen."
    )
    reached = findings.majority_value
    if findings.interval is None or reached is None or findings.interval[1] > reached:
        return text
    return (
        f"{text} It is not better, beyond chance, than always answering {findings.majority_name}: nothing "
        "was learned that holds for new groups."
    )


def tell_leaks(findings: Findings) -> list[str]:
    """Name the validation and test images with a group in training, and give the score without them."""
    images, told = findings.images, []
    val, test = images.leaked("val"), images.leaked("test")
    if len(val):
        told.append(f"{_count_leaked(findings, val, 'val')} {_tell_score_without(findings, val)}")
    if len(test):
        too_good = "A score on the test split will be too good in the same way."
        told.append(f"{_count_leaked(findings, test, 'test')} {too_good}")
    return told


def _count_leaked(findings: Findings, leaked: Array, split: str) -> str:
    images = findings.images
    names = ", ".join(printable(images.paths[one].name) for one in leaked[:NAMED].tolist())
    more = f" and {len(leaked) - NAMED:,} more" if len(leaked) > NAMED else ""
    total = len(images.of(split))
    word = {"val": "validation", "test": "test"}[split]
    return (
        f"{len(leaked):,} of {plural(total, f'{word} image')} ({share(len(leaked), total)}) leaked: they are "
        f"copies of training images, or of one group with some ({names}{more})."
    )


def _tell_score_without(findings: Findings, leaked: Array) -> str:
    predictions, metric = findings.predictions, findings.study.metric
    if predictions is None or findings.interval is None:
        return "What the best trial scores without them cannot be said: its predictions are missing."
    kept = predictions.rows(~np.isin(predictions.ids, leaked))
    if not len(kept):
        return "No validation image is left without them, so nothing is known about new images."
    without = confidence_interval(kept, metric=metric)
    assert without is not None, "the metric of all images could be computed"
    official, (value, low, high) = findings.interval[0], without
    judgement = _judge_leak(findings, without, num_left=int(number_groups(kept).max()) + 1)
    return (
        f"With all validation images the best trial reaches {metric} {_show(metric, official)}; without the "
        f"leaked ones, on {plural(len(kept), 'image')}, {_show(metric, value)} (95% interval "
        f"{_show(metric, low)} to {_show(metric, high)}). {judgement} "
        "Leaderboard and answer stay on the split that was given; data without one are cut so that no group "
        "is torn."
    )


def _judge_leak(findings: Findings, without: tuple[float, float, float], *, num_left: int) -> str:
    """Say which score to believe: the official one, or that without the leaked images."""
    assert findings.interval is not None
    official, (value, low, high) = findings.interval[0], without
    if num_left < MANY_GROUPS:
        return (
            "So few are left that neither figure says how good the model is on new images: the first may be "
            "memory, the second chance."
        )
    if findings.study.direction.sign * (official - value) <= 0:
        return "The leak does not show in the score."
    if low <= official <= high:
        return "The second figure is the one to believe, though the difference is within its noise."
    return "The leak makes the score better than the model is: believe the second figure."


def _show(metric: str, value: float) -> str:
    return show_value(metric, value) if is_share(metric) or np.isfinite(value) else "any value"
