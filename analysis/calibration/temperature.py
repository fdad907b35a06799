"""Calibrates the pooled probabilities by one temperature, and says by cross-fitting what that brings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.calibration.probe import deal_groups
from analysis.predictions import Array, Predictions, calibration
from contract.answer import apply_temperature

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of the temperature."""

PSEUDO_IMAGES = 10.0
"""Further images that are taken to come out as predicted. Without them the temperature of images that are
all right would be the lowest there is, and the first mistake on new images would cost without bound. With 30
simulated images of 5 classes they lowered the loss on new images in 7 of 8 settings by 0.002 to 0.058, and
raised it in one by 0.003; with 600 they change it by 0.0001."""

FOLDS = 5
FEWEST_GROUPS = 2 * FOLDS
"""Fewest groups of which a temperature is fitted."""

MOST_CELLS = 2_000_000
"""Most probabilities that a temperature is fitted to, in a second; of more, a sample of the images."""

SMALLEST = 2.0**-149
"""Smallest probability in float32; one of 0 counts as this in a log-loss, which would have no value else."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One temperature, and what it changes for images that it was not fitted to."""

    temperature: float
    """1 where the fitted one does not help."""

    fitted: float
    """The temperature fitted to all images; not used unless `temperature` is the same."""

    loss_before: float
    loss_after: float
    """Log-loss of the images with the temperatures of the other folds."""

    error_before: float
    error_after: float
    """Expected calibration error, likewise."""

    num_images: int
    num_groups: int
    note: str = ""
    """Why no temperature was fitted; empty where one was."""

    @property
    def helps(self) -> bool:
        return self.loss_after < self.loss_before

    def describe(self) -> str:
        """Say in one sentence what the temperature is and what it brings."""
        if self.note:
            return f"Temperature 1: {self.note}."
        amounts = (
            f"log-loss {self.loss_before:.4f} to {self.loss_after:.4f}, calibration error "
            f"{self.error_before:.1%} to {self.error_after:.1%}, of {self.num_images:,} validation images "
            f"by the temperature of the others"
        )
        if not self.helps:
            return f"Temperature 1: {self.fitted:.2f} would not help ({amounts})."
        return f"Temperature {self.temperature:.2f} ({amounts})."

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def calibrate(log_probabilities: Array, labels: Array, groups: Array, *, seed: int = 0) -> Calibration:
    """Fit a temperature, and judge it by the images of each fold with the temperature of the other folds.

    Groups are never on both sides. The label that is predicted stays what it was.

    Args:
        log_probabilities: pooled, [num_images, num_classes].
        groups: equal numbers for images that belong together, [num_images].
    """
    num_images, num_classes = log_probabilities.shape
    num_groups = len(np.unique(groups))
    before = log_loss(log_probabilities, labels) if num_images else 0.0
    error = _expected_error(log_probabilities, labels, groups) if num_images else 0.0
    same: dict[str, Any] = {
        "num_images": num_images,
        "num_groups": num_groups,
        "loss_before": before,
        "error_before": error,
    }
    note = ""
    if num_classes < 2:
        note = "one class leaves nothing to calibrate"
    elif num_groups < FEWEST_GROUPS:
        of = "images" if num_groups == num_images else "groups of images"
        note = f"{num_groups} {of} are too few to fit one ({FEWEST_GROUPS} are needed)"
    if note:
        unchanged: dict[str, Any] = {
            "temperature": 1.0,
            "fitted": 1.0,
            "loss_after": before,
            "error_after": error,
        }
        return Calibration(**same, **unchanged, note=note)
    rows = _sample(num_images, num_classes, seed)
    fitted = fit_temperature(log_probabilities[rows], labels[rows])
    folds = deal_groups(labels, groups, parts=FOLDS, seed=seed)
    unseen = np.empty(log_probabilities.shape)
    for fold in range(FOLDS):
        others = rows[folds[rows] != fold]
        temperature = fit_temperature(log_probabilities[others], labels[others])
        unseen[folds == fold] = apply_temperature(log_probabilities[folds == fold], temperature)
    after = log_loss(unseen, labels)
    return Calibration(
        **same,
        temperature=fitted if after < before else 1.0,
        fitted=fitted,
        loss_after=after,
        error_after=_expected_error(unseen, labels, groups),
    )


def fit_temperature(
    log_probabilities: Array, labels: Array, *, pseudo_images: float = PSEUDO_IMAGES
) -> float:
    """Find the temperature of least log-loss, between LOWEST and HIGHEST.

    The loss is that of the images and of `pseudo_images` further ones whose labels are drawn from the
    predictions as they are, so that few images, or images that are all right, move it little from 1.
    An image whose own class has probability 0 says nothing of the temperature and is left out.

    Args:
        log_probabilities: [num_images, num_classes], -inf where a class is impossible.
    """
    from scipy.optimize import minimize_scalar

    own = log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    possible = np.isfinite(own)
    if log_probabilities.shape[1] < 2 or not possible.any():
        return 1.0
    values, own = log_probabilities[possible].astype(np.float64), own[possible]
    shares = np.exp(values)
    shares /= shares.sum(axis=1, keepdims=True)
    expected = (shares * np.where(shares > 0, values, 0.0)).sum(axis=1)
    weight = pseudo_images / len(own)

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        total = _log_of_sum(values * inverse)
        return float((total - own * inverse + weight * (total - expected * inverse)).mean())

    bounds = math.log(LOWEST), math.log(HIGHEST)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)


def log_loss(log_probabilities: Array, labels: Array) -> float:
    """Mean negative log-probability of the images' own classes."""
    own = log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.maximum(own, math.log(SMALLEST)).mean())


def _expected_error(log_probabilities: Array, labels: Array, groups: Array) -> float:
    return calibration(Predictions(np.arange(len(labels)), labels, log_probabilities, groups))[1]


def _log_of_sum(values: Array) -> NDArray[np.float64]:
    highest = values.max(axis=1)
    sums: NDArray[np.float64] = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    return sums


def _sample(num_images: int, num_classes: int, seed: int) -> NDArray[np.int64]:
    most = max(1000, MOST_CELLS // num_classes)
    return np.sort(np.random.default_rng(seed).permutation(num_images)[:most])
