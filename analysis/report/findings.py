"""Results that several sections share: the best trial, its rival, predictions and importances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.answer.record import Answer, load_answer
from analysis.comparison import PairedTest, compare_predictions, confidence_interval, find_finalists
from analysis.curves import Curve, find_common_epoch, load_curves
from analysis.finals import Final, load_finals
from analysis.image_table import ImageTable, load_image_table
from analysis.importance import Importance, measure_importance
from analysis.leaderboard import class_name, find_varying, load_leaderboard
from analysis.majority import Majority, find_majority
from analysis.predictions import Predictions, load_predictions
from analysis.reading import Row, StudyInfo
from analysis.readings import TestReading, load_readings


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A study and the results that several sections of its report share."""

    study: StudyInfo
    rows: list[Row]
    """Trials, best first."""

    curves: Mapping[int, Curve]
    best: Row | None
    rival: Row | None
    images: ImageTable
    shows_images: bool
    """False where a page without a single photo was asked for."""

    majority: Majority | None
    """The commonest class of the images that the best trial was validated on; None without any."""

    predictions: Predictions | None
    """Predictions of the best trial for the validation images."""

    interval: tuple[float, float, float] | None
    """The best trial's metric, taken from its predictions, and its 95% interval."""

    tested: PairedTest | None
    """The best trial against its rival; None without predictions of both."""

    common_epoch: int
    """Epoch at which trials are compared: at least half of them reached it."""

    common_values: Mapping[int, float]
    """Metric after that epoch by trial number."""

    importance: list[Importance]
    searched: list[str]
    """Names of the hyperparameters that vary, the most important first."""

    answer: Answer | None = None
    """The model that was made of the trials; None where none was."""

    readings: Sequence[TestReading] = ()
    """Readings of the test split, the first one first."""

    finals: Sequence[Final] = ()
    """What was trained for the answer, after the search."""

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in (self.study.facts.get("data") or {}).get("classes") or []]

    @property
    def majority_value(self) -> float | None:
        """The study's metric where the commonest class is always answered; None for a loss."""
        return None if self.majority is None else self.majority.reaches(self.study.metric)

    @property
    def majority_name(self) -> str:
        return "" if self.majority is None else self.class_name(self.majority.label)

    @property
    def left_out(self) -> str:
        """The search's note on images that it could not use: "N of M images cannot be read: …", or ""."""
        return str((self.study.facts.get("data") or {}).get("left_out") or "")

    @property
    def notes(self) -> list[str]:
        """What the search noted of its data: what was read, not used, or left out."""
        notes = (self.study.facts.get("data") or {}).get("notes") or ()
        return [f"{note['kind'].capitalize()}: {note['text']}." for note in notes]

    @property
    def share_left_out(self) -> float:
        """Share of the listed images that could not be used, as far as the note says."""
        found = re.match(r"([\d,]+) of ([\d,]+)", self.left_out)
        if found is None:
            return 0.0
        part, whole = (int(number.replace(",", "")) for number in found.groups())
        return part / whole if whole else 0.0

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if study.json has no name."""
        return class_name(self.study, label)


def find_out(study: StudyInfo, *, no_images: bool = False) -> Findings:
    """Read a study and compute what several sections need.

    Args:
        no_images: show no photo, as if the search had run with --no-images.
    """
    rows = load_leaderboard([study])
    curves = load_curves(study) if rows else {}
    best, rival = find_finalists(rows)
    images = load_image_table(study.directory)
    groups = images.groups if images.is_grouped else None
    predictions = load_predictions(study.directory, best["trial"], groups=groups) if best else None
    others = load_predictions(study.directory, rival["trial"], groups=groups) if rival else None
    validated = images.labels[images.of("val")] if predictions is None else predictions.labels
    epoch = find_common_epoch(curves)
    values = {trial: curve.value_at(epoch) for trial, curve in curves.items()}
    common = {trial: value for trial, value in values.items() if value is not None}
    configs = {row["trial"]: row for row in rows if row["trial"] in common}
    varying = find_varying(rows)
    importance = measure_importance(
        [configs[trial] for trial in configs], [common[trial] for trial in configs], varying
    )
    ordered = [one.name for one in importance]
    tested = None
    if predictions is not None and others is not None:
        tested = compare_predictions(predictions, others, metric=study.metric, direction=study.direction)
    return Findings(
        study=study,
        rows=rows,
        curves=curves,
        best=best,
        rival=rival,
        images=images,
        shows_images=not (no_images or study.facts.get("no_images")),
        majority=find_majority(validated),
        predictions=predictions,
        interval=confidence_interval(predictions, metric=study.metric) if predictions is not None else None,
        tested=tested,
        common_epoch=epoch,
        common_values=common,
        importance=importance,
        searched=ordered + [name for name in varying if name not in ordered],
        answer=load_answer(study.paths),
        readings=load_readings(study),
        finals=load_finals(study),
    )
