"""Saved predictions: the probabilities a trial's best epoch gave every validation image."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row an image."""

    ids: Array
    """Image numbers: the column `id` of data.csv."""

    labels: Array
    probabilities: Array
    """[images, classes]"""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> Array:
        answer: Array = self.probabilities.argmax(axis=1)
        return answer

    @property
    def right(self) -> Array:
        answer: Array = self.predicted == self.labels
        return answer

    @property
    def confusion(self) -> Array:
        """[true class, predicted class] in images."""
        size = self.probabilities.shape[1]
        return count_cells(self.labels, self.predicted, size)

    def take(self, ids: Array) -> Predictions:
        """The rows of these images, in their order."""
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, ids, sorter=order)]
        return Predictions(self.ids[rows], self.labels[rows], self.probabilities[rows])


def load_predictions(study_dir: Path, trial: int) -> Predictions | None:
    """None where the trial left none, or the file cannot be read (a killed worker, a partial copy)."""
    path = study_dir / "trials" / str(trial) / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, labels = file["ids"].astype(np.int64), file["labels"].astype(np.int64)
            probabilities = file["probabilities"].astype(np.float32)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if len(ids) == 0 or len(ids) != len(labels) or probabilities.shape[:1] != ids.shape:
        return None
    return Predictions(ids, labels, probabilities)


def count_cells(labels: Array, predicted: Array, size: int, weights: Array | None = None) -> Array:
    """Confusion matrix [true class, predicted class], each image counted `weights` times."""
    cells = np.bincount(labels * size + predicted, weights=weights, minlength=size * size)
    counts: Array = cells.reshape(size, size)
    return counts


def class_scores(confusion: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class; NaN where a class was never predicted or has no image."""
    right = confusion.diagonal().astype(float)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / predicted, right / images, 2 * right / (images + predicted)


def calibration(predictions: Predictions, *, num_bins: int = 10) -> tuple[list[dict[str, float]], float]:
    """Bins of the highest probability (its mean, the accuracy, the images), and their expected error."""
    confidence = predictions.probabilities.max(axis=1)
    number = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
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
