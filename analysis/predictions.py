"""Saved predictions: the log-probabilities a trial's kept epoch gave every validation image."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.study_layout import StudyPaths

Array = NDArray[Any]

HALF_OF_SMALLEST = np.float32(2**-25)
"""Half of the smallest positive float16: smaller probabilities were rounded to 0."""

NUM_BINS = 10


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one trial: one row an image in each array."""

    ids: Array
    """Image ids, as in the column `id` of data.csv."""

    labels: Array
    log_probabilities: Array
    """float32 [images, classes]"""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def probabilities(self) -> Array:
        """float32 [images, classes]"""
        values: Array = np.exp(self.log_probabilities)
        return values

    @property
    def predicted(self) -> Array:
        answer: Array = self.log_probabilities.argmax(axis=1)
        return answer

    @property
    def right(self) -> Array:
        answer: Array = self.predicted == self.labels
        return answer

    @property
    def confusion(self) -> Array:
        """Number of images by [true class, predicted class]."""
        size = self.log_probabilities.shape[1]
        return count_cells(self.labels, self.predicted, size)

    def take(self, ids: Array) -> Predictions:
        """Select the rows of these images, in the order of `ids`, all of which must be there."""
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, ids, sorter=order)]
        return Predictions(self.ids[rows], self.labels[rows], self.log_probabilities[rows])


def load_predictions(study_dir: Path, trial: int) -> Predictions | None:
    """Load a trial's predictions; None if there are none, or the file is damaged or half copied."""
    path = StudyPaths(study_dir).trial(trial).predictions
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, labels = file["ids"].astype(np.int64), file["labels"].astype(np.int64)
            log_probabilities = _read_log_probabilities(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if len(ids) == 0 or len(ids) != len(labels) or log_probabilities.shape[:1] != ids.shape:
        return None
    return Predictions(ids, labels, log_probabilities)


def _read_log_probabilities(file: Mapping[str, Any]) -> Array:
    """Return the file's log-probabilities as float32.

    Files of older studies hold probabilities in float16, where everything below 3e-8 has become 0. It is read
    as 3e-8, so that their loss is at most 17.3 an image.
    """
    if "log_probabilities" in file:
        stored: Array = file["log_probabilities"].astype(np.float32)
        return stored
    rounded: Array = file["probabilities"].astype(np.float32)
    return np.log(np.maximum(rounded, HALF_OF_SMALLEST))


def count_cells(labels: Array, predicted: Array, size: int, weights: Array | None = None) -> Array:
    """Compute the confusion matrix [true class, predicted class], each image counted `weights` times."""
    cells = np.bincount(labels * size + predicted, weights=weights, minlength=size * size)
    counts: Array = cells.reshape(size, size)
    return counts


def class_scores(confusion: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class; NaN where a class was never predicted or has no image."""
    right = confusion.diagonal().astype(float)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / predicted, right / images, 2 * right / (images + predicted)


def calibration(predictions: Predictions) -> tuple[list[dict[str, float]], float]:
    """Return (mean confidence, accuracy, images) of ten bins of the highest probability, and the error.

    The error is the expected one: the mean distance of confidence and accuracy, weighted by images.
    """
    confidence = predictions.probabilities.max(axis=1)
    number = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for index in np.unique(number):
        inside = number == index
        bins.append(
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(predictions.right[inside].mean()),
                "images": int(inside.sum()),
            }
        )
    error = sum(one["images"] * abs(one["confidence"] - one["accuracy"]) for one in bins)
    return bins, error / len(predictions)
