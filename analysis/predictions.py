"""Saved predictions: the log-probabilities a trial's kept epoch gave every validation image."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.predictions import unpack_log_probabilities
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

    groups: Array | None = None
    """Images with an equal number belong together; None where each image is its own group."""

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
    def class_counts(self) -> Array:
        """Images of each class that are right, of it, and taken for it: [3, classes]."""
        return count_by_class(self.labels, self.predicted, self.log_probabilities.shape[1])

    def confusions(self) -> list[tuple[int, int, int]]:
        """List (true class, predicted class, images) of every kind of mistake, the commonest first.

        Of 3,000 classes a matrix would have nine million cells, nearly all of them empty.
        """
        wrong = ~self.right
        size = self.log_probabilities.shape[1]
        cells, counts = np.unique(self.labels[wrong] * size + self.predicted[wrong], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(cells[i]) // size, int(cells[i]) % size, int(counts[i])) for i in order]

    def take(self, ids: Array) -> Predictions:
        """Select the rows of these images, in the order of `ids`, all of which must be there."""
        order = np.argsort(self.ids)
        return self.rows(order[np.searchsorted(self.ids, ids, sorter=order)])

    def rows(self, rows: Array) -> Predictions:
        """Select rows by their numbers or by a mask."""
        groups = None if self.groups is None else self.groups[rows]
        return Predictions(self.ids[rows], self.labels[rows], self.log_probabilities[rows], groups)


def load_predictions(study_dir: Path, trial: int, *, groups: Array | None = None) -> Predictions | None:
    """Load a trial's predictions; None if there are none, or the file is damaged or half copied.

    Args:
        groups: the group of each image by its id, of `load_groups`; None where each image is its own.
    """
    return load_file(StudyPaths(study_dir).trial(trial).predictions, groups=groups)


def load_file(path: Path, *, groups: Array | None = None) -> Predictions | None:
    """Load a file of predictions as `load_predictions` does."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, labels = file["ids"].astype(np.int64), file["labels"].astype(np.int64)
            log_probabilities = _read_log_probabilities(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if len(ids) == 0 or len(ids) != len(labels) or log_probabilities.shape[:1] != ids.shape:
        return None
    known = groups is not None and int(ids.max()) < len(groups)
    return Predictions(ids, labels, log_probabilities, groups[ids] if groups is not None and known else None)


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Join predictions of different images."""
    groups = [part.groups for part in parts if part.groups is not None]
    return Predictions(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.log_probabilities for part in parts]),
        np.concatenate(groups) if len(groups) == len(parts) else None,
    )


def load_labels(study_dir: Path, trial: int) -> Array | None:
    """Load the labels alone of the images that a trial was validated on; None if there are none."""
    try:
        with np.load(StudyPaths(study_dir).trial(trial).predictions, allow_pickle=False) as file:
            labels: Array = file["labels"].astype(np.int64)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return labels


def _read_log_probabilities(file: Mapping[str, Any]) -> Array:
    """Return the file's log-probabilities as float32.

    Files of older studies hold probabilities in float16, where everything below 3e-8 has become 0. It is read
    as 3e-8, so that their loss is at most 17.3 an image.
    """
    if "probabilities" not in file:
        return unpack_log_probabilities(file)
    rounded: Array = file["probabilities"].astype(np.float32)
    return np.log(np.maximum(rounded, HALF_OF_SMALLEST))


def count_by_class(labels: Array, predicted: Array, size: int, weights: Array | None = None) -> Array:
    """Count the images of each class that are right, of it, and taken for it: [3, classes].

    Args:
        weights: how often each image counts; None = once.
    """
    right = (predicted == labels) * (1 if weights is None else weights)
    counted = ((labels, right), (labels, weights), (predicted, weights))
    return np.stack([np.bincount(one, weights=weight, minlength=size) for one, weight in counted])


def class_scores(class_counts: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each class; NaN where a class was never predicted or has no image."""
    right, images, predicted = class_counts.astype(float)
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
