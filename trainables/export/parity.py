"""Proves an exported program: on validation images it must predict what the trial itself predicted."""

from __future__ import annotations

import zipfile
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.decoding import Fit
from contract.messages import StudySettings
from contract.predictions import unpack_log_probabilities
from contract.study_layout import TrialPaths
from contract.trial_config import TrialConfig
from trainables.activations.shared import load_splits
from trainables.assembly import make_view
from trainables.images.split_view import SplitView, ViewSettings, joined

NUM_IMAGES = 64
"""Validation images that are compared, drawn by the study's seed, or all where there are fewer."""

BATCH = 16

TOLERANCE_CPU = 0.02
"""Largest difference of a probability where the trial computed in single precision; its frozen split's output
may have been rounded to float16."""

TOLERANCE_GPU = 0.1
"""Largest difference where the trial computed in bfloat16, which keeps 8 bits of a number."""

NEIGHBOUR_SHARE = 0.9
"""Least share of equal labels of nearest neighbours: rounding may bring another one nearest, which changes a
probability by whole votes."""


def check_predictions(
    program: Callable[[Tensor], Tensor],
    paths: TrialPaths,
    config: TrialConfig,
    settings: StudySettings,
    *,
    fit: Fit,
    uses_neighbours: bool,
) -> None:
    """Compare the program with the trial's own predictions, on images as the trial saw them.

    Args:
        program: images [N, 3, S, S] in [0, 1] -> probabilities [N, classes].
        uses_neighbours: the head is nearest neighbours, of which equal labels are asked only.

    Raises:
        ValueError: predictions differ; the message has both figures.
    """
    ids, stored = load_predictions(paths)
    splits = load_splits(settings, fit, torch.device("cpu"))
    split = joined(splits["train"], splits["val"])  # a fold predicts images of both
    view = make_view(config, settings, fit=fit, is_train=False)
    position = {int(number): at for at, number in enumerate(split.ids)}
    if not set(ids.tolist()) <= set(position):
        raise ValueError(f"{paths.predictions}: the predictions are of other images than the study's")
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(ids))[:NUM_IMAGES])
    positions = np.array([position[int(number)] for number in ids[rows]])
    found = predict(program, view, split, positions)
    tolerance = TOLERANCE_GPU if settings.use_gpu else TOLERANCE_CPU
    compare(found, stored[rows], tolerance=tolerance, uses_neighbours=uses_neighbours)


def predict(
    program: Callable[[Tensor], Tensor], view: ViewSettings, split: SplitView, positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Predict the images at some positions of a split, seen as in validation: probabilities [N, classes]."""
    chunks = []
    with torch.inference_mode():
        for start in range(0, len(positions), BATCH):
            chosen = positions[start : start + BATCH]
            images = view.images(split, chosen, epoch=0, device=torch.device("cpu"))
            chunks.append(program(images).float().numpy())
    return np.concatenate(chunks)


def compare(
    found: NDArray[np.float32], stored: NDArray[np.float32], *, tolerance: float, uses_neighbours: bool
) -> None:
    """Refuse probabilities [N, classes] that are not the stored ones.

    Where the two likeliest classes are closer than the tolerance, either may come first.

    Raises:
        ValueError: labels or probabilities differ.
    """
    ordered = np.sort(stored, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > tolerance if stored.shape[1] > 1 else np.ones(len(stored), bool)
    others = int(((found.argmax(axis=1) != stored.argmax(axis=1)) & clear).sum())
    difference = float(np.abs(found - stored).max())
    if uses_neighbours:
        fits = others <= (1 - NEIGHBOUR_SHARE) * len(stored)
    else:
        fits = others == 0 and difference <= tolerance
    if not fits:
        raise ValueError(
            f"the exported program does not predict what the trial did: {others} of {len(stored)} validation "
            f"images get another label, and a probability differs by {difference:.3f} (at most {tolerance:g} "
            "is taken for rounding); the trial's weights, or those of its backbone, were changed since"
        )


def load_predictions(paths: TrialPaths) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Load image ids [N] and probabilities [N, classes] of the kept epoch on the validation images.

    Those of a refit are of images that it was trained on: they prove a program, and tell nothing else.

    Raises:
        ValueError: the file is missing or damaged.
    """
    fitted = paths.fitted_predictions
    try:
        with np.load(fitted if fitted.exists() else paths.predictions, allow_pickle=False) as file:
            ids, probabilities = file["ids"], np.exp(unpack_log_probabilities(file))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{paths.predictions} is missing or damaged: run the study again") from error
    return ids.astype(np.int64), probabilities.astype(np.float32)
