"""Results that several sections share: the best trial, its rival, predictions and importances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.comparison import PairedTest, compare_predictions, confidence_interval, find_finalists
from analysis.curves import Curve, find_common_epoch, load_curves
from analysis.importance import Importance, measure_importance
from analysis.leaderboard import find_varying, load_leaderboard
from analysis.predictions import Predictions, load_predictions
from analysis.reading import Row, StudyInfo


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A study and the results that several sections of its report share."""

    study: StudyInfo
    rows: list[Row]
    """Trials, best first."""

    curves: Mapping[int, Curve]
    best: Row | None
    rival: Row | None
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

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in (self.study.facts.get("data") or {}).get("classes") or []]

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if study.json has no name."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def find_out(study: StudyInfo) -> Findings:
    """Read a study and compute what several sections need."""
    rows = load_leaderboard([study])
    curves = load_curves(study) if rows else {}
    best, rival = find_finalists(rows)
    predictions = load_predictions(study.directory, best["trial"]) if best else None
    others = load_predictions(study.directory, rival["trial"]) if rival else None
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
        predictions=predictions,
        interval=confidence_interval(predictions, metric=study.metric) if predictions is not None else None,
        tested=tested,
        common_epoch=epoch,
        common_values=common,
        importance=importance,
        searched=ordered + [name for name in varying if name not in ordered],
    )
