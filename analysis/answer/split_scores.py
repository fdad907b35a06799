"""Scores one model on the images of the test split, alone and against others on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.calibration.operating_point import measure_ranking
from analysis.calibration.prediction_sets import SetThreshold, check_coverage
from analysis.calibration.unknown import measure_share
from analysis.comparison import compare_predictions, confidence_interval, describe_test, number_groups
from analysis.predictions import Array, Predictions, calibration, class_scores
from contract.metrics import METRICS

SCORED = ("val_accuracy", "val_loss", "val_top3_accuracy", "val_macro_f1", "val_balanced_accuracy")
COMPARED = ("val_accuracy", "val_loss")
MOST_CONFUSIONS = 1000
"""Most kinds of mistake that a reading lists."""


def score_split(
    predictions: Predictions,
    *,
    rivals: Mapping[str, Predictions],
    classes: Sequence[str],
    sets: Mapping[str, Any] | None = None,
    operating_point: Mapping[str, Any] | None = None,
    unknown: tuple[Array, float] | None = None,
) -> dict[str, Any]:
    """Collect everything that a reading of the test split records, as plain values.

    Args:
        predictions: calibrated ones of the model.
        rivals: predictions of the same images by what the model is compared with, by name.
        sets: threshold of the prediction sets, as answer.json has it.
        operating_point: the same of an operating point for two classes.
        unknown: scores of the images [N] that are low for unknown classes, and their threshold.
    """
    groups = number_groups(predictions)
    bins, error = calibration(predictions)
    found: dict[str, Any] = {
        "images": len(predictions),
        "groups": int(groups.max()) + 1,
        "scores": _score_all(predictions),
        "calibration_error": error,
        "calibration_bins": bins,
        "classes": _score_classes(predictions, classes),
        "confusions": [
            {"true": str(classes[true]), "taken_for": str(classes[taken]), "images": number}
            for true, taken, number in predictions.confusions()[:MOST_CONFUSIONS]
        ],
        "compared": [_compare(predictions, rival, name) for name, rival in rivals.items()],
    }
    if sets is not None:
        coverage = check_coverage(
            predictions.probabilities, predictions.labels, SetThreshold(**sets), groups=groups
        )
        found["coverage"] = {"said": coverage.describe(), **coverage.as_values()}
    if unknown is not None:
        called = measure_share(unknown[0] < unknown[1], groups)
        found["unknown"] = {"said": f"{called} of known images are called unknown", **asdict(called)}
    present = np.unique(predictions.labels)
    if predictions.log_probabilities.shape[1] == 2 and len(present) == 2:
        ranking = measure_ranking(predictions.probabilities, predictions.labels, positive=1, groups=groups)
        found["ranking"] = {"positive": str(classes[1]), **ranking.as_values()}
        if operating_point is not None:
            found["at_operating_point"] = _score_point(predictions, float(operating_point["threshold"]))
    return found


def _score_all(predictions: Predictions) -> dict[str, dict[str, float]]:
    scores = {}
    for metric in SCORED:
        interval = confidence_interval(predictions, metric=metric)
        if interval is not None:
            name = metric.removeprefix("val_")
            scores[name] = dict(zip(("value", "low", "high"), interval, strict=True))
    return scores


def _score_classes(predictions: Predictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    counts = predictions.class_counts
    precision, recall, f1 = class_scores(counts)
    return [
        {
            "class": str(name),
            "images": int(counts[1][number]),
            "precision": _number(precision[number]),
            "recall": _number(recall[number]),
            "f1": _number(f1[number]),
        }
        for number, name in enumerate(classes)
        if counts[1:, number].any()
    ]


def _number(value: float) -> float | None:
    """Replace NaN, for which JSON has no word."""
    return None if np.isnan(value) else float(value)


def _compare(predictions: Predictions, rival: Predictions, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"with": name}
    for metric in COMPARED:
        direction = METRICS[metric].direction
        tested = compare_predictions(predictions, rival, metric=metric, direction=direction)
        if tested is not None:
            said = describe_test(tested, first="the answer", second=name, images="test images")
            found[metric.removeprefix("val_")] = {"said": said, **asdict(tested)}
    return found


def _score_point(predictions: Predictions, threshold: float) -> dict[str, float | None]:
    """Precision, recall and false alarms where the second class is answered from a probability on."""
    called: Array = predictions.probabilities[:, 1] >= threshold
    positive = predictions.labels == 1
    hits = float((called & positive).sum())
    return {
        "threshold": threshold,
        "precision": hits / float(called.sum()) if called.any() else None,
        "recall": hits / float(positive.sum()) if positive.any() else None,
        "false_alarms": float((called & ~positive).sum()) / float((~positive).sum())
        if (~positive).any()
        else None,
    }
