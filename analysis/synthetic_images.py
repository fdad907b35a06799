"""Tells by paired tests, overall and by class, whether trials with synthetic images beat those without."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.comparison import (
    PairedTest,
    compare_predictions,
    describe_test,
    format_p,
    mcnemar_of_groups,
    number_groups,
)
from analysis.image_table import load_groups
from analysis.predictions import Predictions, load_predictions
from analysis.reading import Row, StudyInfo
from contract.messages import State
from contract.trial_config import hyperparameters

SHARE = "synthetic_share"
SURE = 0.05
"""p-value below which a class differs, after Bonferroni's correction for the number of classes."""


@dataclass(frozen=True, kw_only=True)
class ClassEffect:
    """How often the validation images of a class are recognised with synthetic images and without."""

    label: int
    num_images: int
    recall_with: float
    recall_without: float
    p_value: float
    """p-value of McNemar's exact test on the images of the class, times the number of classes, at most 1."""

    @property
    def verdict(self) -> str:
        """Say "better", "worse" or "no difference beyond chance"."""
        if self.p_value >= SURE or self.recall_with == self.recall_without:
            return "no difference beyond chance"
        return "better" if self.recall_with > self.recall_without else "worse"


@dataclass(frozen=True, kw_only=True)
class SyntheticEffect:
    """A trial with synthetic images against one without, on the same validation images."""

    trial: Row
    rival: Row
    are_twins: bool
    """They differ in the share of synthetic images alone."""

    tested: PairedTest
    classes: tuple[ClassEffect, ...]
    """The effect on each class that has validation images."""

    num_twins: int
    """Pairs of finished trials of the study that differ in the share alone."""

    num_twins_better: int
    """Twins whose trial with synthetic images has the better value."""

    @property
    def sentence(self) -> str:
        """Say in one sentence whether they helped, with the evidence."""
        names = [f"trial {row['trial']} (synthetic_share {row[SHARE]:g})" for row in (self.trial, self.rival)]
        said = describe_test(self.tested, first=names[0], second=names[1])
        if self.tested.is_better:
            return f"Synthetic images helped: {said}."
        if self.tested.is_worse:
            return f"Synthetic images did harm: {said}."
        return f"Synthetic images made no difference beyond chance: {said}."

    @property
    def chosen_how(self) -> str:
        """Say how the two trials were chosen."""
        if self.are_twins:
            return (
                f"The two differ in synthetic_share alone. Of all such pairs ({self.num_twins}, of which in "
                f"{self.num_twins_better} the trial with synthetic images has the better value) it is the "
                "one with the best mean value."
            )
        return (
            "No two finished trials differ in synthetic_share alone: the best with synthetic images stands "
            f"against the best without of its backbone ({self.trial['backbone']}), so that other "
            "hyperparameters, or how many were tried, may make the difference."
        )

    def name_classes(self, names: Sequence[str]) -> str:
        """Name the classes that became better or worse beyond chance, in a sentence."""
        found = {
            verdict: [
                f"{names[one.label]} (recall {100 * one.recall_without:.1f}% to "
                f"{100 * one.recall_with:.1f}%, p = {format_p(one.p_value)})"
                for one in self.classes
                if one.verdict == verdict
            ]
            for verdict in ("better", "worse")
        }
        parts = [f"{verdict}: {', '.join(which)}" for verdict, which in found.items() if which]
        return f"By class {'; '.join(parts)}." if parts else "By class no difference is beyond chance."


def find_effect(study: StudyInfo, rows: Sequence[Row]) -> SyntheticEffect | None:
    """Compare the study's trials with and without synthetic images; None where one of the two is missing.

    Args:
        rows: the study's leaderboard, best first.
    """
    finished = [row for row in rows if row["state"] is State.COMPLETE and row.get("kept_at_epoch")]
    users = [row for row in finished if row.get(SHARE)]
    others = [row for row in finished if not row.get(SHARE)]
    if not users or not others:
        return None
    names = [name for name in hyperparameters() if name != SHARE]

    def key(row: Row) -> Hashable:
        return tuple(str(row.get(name)) for name in names)

    plain: dict[Hashable, Row] = {}
    for row in others:
        plain.setdefault(key(row), row)
    sign, metric = study.direction.sign, study.metric
    twins = sorted(
        ((row, plain[key(row)]) for row in users if key(row) in plain),
        key=lambda pair: -sign * (pair[0][metric] + pair[1][metric]),
    )
    alike = [(row, rival) for row in users for rival in others if rival["backbone"] == row["backbone"]]
    pairs = twins or alike
    if not pairs:
        return None
    groups = load_groups(study.directory)
    found = [load_predictions(study.directory, row["trial"], groups=groups) for row in pairs[0]]
    if found[0] is None or found[1] is None:
        return None
    tested = compare_predictions(found[0], found[1], metric=metric, direction=study.direction)
    if tested is None:
        return None
    return SyntheticEffect(
        trial=pairs[0][0],
        rival=pairs[0][1],
        are_twins=bool(twins),
        tested=tested,
        classes=_compare_classes(found[0], found[1]),
        num_twins=len(twins),
        num_twins_better=sum(sign * (row[metric] - rival[metric]) > 0 for row, rival in twins),
    )


def _compare_classes(first: Predictions, second: Predictions) -> tuple[ClassEffect, ...]:
    """Compare the recall of each class, on images that both were validated on."""
    present = np.unique(first.labels)
    effects = []
    for label in present.tolist():
        ids = first.ids[first.labels == label]
        one, other = first.take(ids), second.take(ids)
        difference = one.right.astype(int) - other.right.astype(int)
        p_value = mcnemar_of_groups(difference, number_groups(one))
        effects.append(
            ClassEffect(
                label=label,
                num_images=len(ids),
                recall_with=float(one.right.mean()),
                recall_without=float(other.right.mean()),
                p_value=min(1.0, p_value * len(present)),
            )
        )
    return tuple(effects)


def describe_effect(rows: Sequence[Row], study: StudyInfo) -> str:
    """Say in one line whether synthetic images helped, and which classes; empty where no trial used any."""
    effect = find_effect(study, rows)
    if effect is None:
        return ""
    classes = [str(name) for name in (study.facts.get("data") or {}).get("classes") or []]
    known = effect.classes[-1].label < len(classes)
    return f"{effect.sentence} {effect.name_classes(classes)}" if known else effect.sentence
