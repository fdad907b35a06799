"""The images of one trial or final training: what it trains on, what it validates, and how classes count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.decoding import Fit
from contract.finals import FinalKind, FinalTraining
from contract.messages import StudySettings
from contract.study_layout import StudyPaths
from contract.trial_config import TrialConfig
from trainables.activations.shared import load_splits, load_synthetic
from trainables.assembly import choose_validated
from trainables.data.folds import cut_folds
from trainables.data.manifest import read_manifest
from trainables.data.synthetic import count_all_added
from trainables.images.split_view import SplitView, joined, oversampled, part_of, with_synthetic
from trainables.training.imbalance import class_weights


@dataclass(frozen=True, kw_only=True)
class TrialImages:
    """Images of a trial, by what it does with them."""

    splits: Mapping[str, SplitView]
    """"train", with synthetic images and over-sampled where the trial asks for it, and "val"."""

    train_labels: NDArray[np.int64]
    validated: NDArray[np.int64]
    """Positions in "val" that are looked at."""

    class_weights: Tensor | None
    """Weight of each class in the loss, float32 [classes]; None where all count the same."""


def load_images(
    config: TrialConfig,
    settings: StudySettings,
    *,
    fit: Fit,
    device: torch.device,
    final: FinalTraining | None = None,
) -> TrialImages:
    """Load the images of a trial, or of a final training; pixels of the test split are never looked at."""
    splits = choose_images(load_splits(settings, fit, device), settings, final)
    if config.synthetic_share:
        synthetic = load_synthetic(settings, fit, device)
        num = count_all_added(config.synthetic_share, synthetic.labels.cpu().numpy())
        splits = {**splits, "train": with_synthetic(splits["train"], synthetic, num=num)}
    if config.minority_policy:
        splits = {**splits, "train": oversampled(splits["train"])}
    labels = splits["train"].labels.cpu().numpy()
    weights = class_weights(labels, len(settings.classes), config.class_weights)
    # A fold is predicted wholly: together the folds have a prediction for every image.
    is_fold = final is not None and final.kind is FinalKind.FOLD
    limit = 0 if is_fold else config.validation_images
    return TrialImages(
        splits=splits,
        train_labels=labels,
        validated=choose_validated(splits["val"].view_ids, limit=limit, seed=settings.seed),
        class_weights=None if weights is None else weights.to(device),
    )


def choose_images(
    splits: Mapping[str, SplitView], settings: StudySettings, final: FinalTraining | None
) -> Mapping[str, SplitView]:
    """Choose what a final training trains on and validates, among the study's own train and val.

    A refit validates on the study's "val", which it is trained on, too.
    """
    if final is None or final.kind is FinalKind.SEED:
        return splits
    together = joined(splits["train"], splits["val"])
    if final.kind is FinalKind.REFIT:
        return {**splits, "train": together}
    assert final.num_folds is not None
    folds = find_folds(together.ids, settings, num_folds=final.num_folds)
    is_own = folds == final.fold
    return {
        "train": part_of(together, np.flatnonzero(~is_own)),
        "val": part_of(together, np.flatnonzero(is_own)),
    }


def find_folds(ids: NDArray[np.int64], settings: StudySettings, *, num_folds: int) -> NDArray[np.int64]:
    """Find the folds of images by id, as data.csv groups them.

    Raises:
        ValueError: there are too few groups for so many folds.
    """
    path = StudyPaths(Path(settings.study_directory)).manifest
    manifest = read_manifest(path, settings.classes)
    return cut_folds(manifest.labels[ids], manifest.groups[ids], num_folds=num_folds, seed=settings.seed)
