"""Proves an exported program: on validation images it must predict what its trials themselves predicted."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.answer import Combination, apply_temperature, pool_log_probabilities
from contract.decoding import Fit
from contract.messages import StudySettings
from contract.predictions import unpack_log_probabilities
from contract.study_layout import StudyPaths, TrialPaths
from trainables.activations.shared import load_splits
from trainables.assembly import make_view
from trainables.export.members import Configs, config_of
from trainables.images.split_view import SplitView, ViewSettings
from trainables.training.regimes import load_regime

Program = Callable[[Tensor], Tensor]
"""Images [N, 3, S, S] in [0, 1] -> probabilities [N, classes]."""

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
    program: Program, combination: Combination, configs: Configs, settings: StudySettings, *, fit: Fit
) -> None:
    """Compare the program with what its members predicted, pooled, on images as they saw them.

    Where a member is nearest neighbours, equal labels are asked only.

    Raises:
        ValueError: predictions differ; the message has both figures.
    """
    members = [config_of(member.ref, configs) for member in combination.members]
    ids, stored = load_pooled_predictions(combination, settings.paths)
    split = load_splits(settings, fit, torch.device("cpu"))["val"]
    view = make_view(members[0], settings, fit=fit, is_train=False)
    position = {int(number): at for at, number in enumerate(split.ids)}
    if not set(ids.tolist()) <= set(position):
        raise ValueError(f"{settings.paths.directory}: the predictions are of other images than the study's")
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(ids))[:NUM_IMAGES])
    positions = np.array([position[int(number)] for number in ids[rows]])
    found = predict(program, view, split, positions)
    tolerance = TOLERANCE_GPU if settings.use_gpu else TOLERANCE_CPU
    compare(
        found,
        stored[rows],
        # A temperature below 1 makes differences larger.
        tolerance=tolerance / min(combination.temperature, 1.0),
        uses_neighbours=any(load_regime(member.regime).uses_neighbours for member in members),
    )


def predict(
    program: Program, view: ViewSettings, split: SplitView, positions: NDArray[np.int64]
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


def load_pooled_predictions(
    combination: Combination, study: StudyPaths
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pool the members' stored predictions: ids [N] of the images that all have, probabilities [N, classes].

    Raises:
        ValueError: the predictions of a member are missing, or there is no image that all have.
    """
    loaded = [
        load_log_probabilities(_find_file(member.ref.paths(study), is_flipped=bool(member.ref.view)))
        for member in combination.members
    ]
    common = reduce(np.intersect1d, (ids for ids, _ in loaded))
    if not len(common):
        raise ValueError(f"{study.directory}: the members have no image in common that they predicted")
    rows = [values[np.argsort(ids)[np.searchsorted(np.sort(ids), common)]] for ids, values in loaded]
    shares = [member.weight for member in combination.members]
    pooled = pool_log_probabilities(np.stack(rows), shares, combination.pooling)
    probabilities = np.exp(apply_temperature(pooled, combination.temperature))
    return common, probabilities.astype(np.float32)


def _find_file(paths: TrialPaths, *, is_flipped: bool) -> Path:
    """File with what a member predicted for validation images, which a refit was trained on."""
    if is_flipped:
        return paths.flipped_predictions
    return paths.fitted_predictions if paths.fitted_predictions.exists() else paths.predictions


def load_predictions(paths: TrialPaths) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Load image ids [N] and probabilities [N, classes] of the kept epoch on the validation images.

    Those of a refit are of images that it was trained on: they prove a program, and tell nothing else.

    Raises:
        ValueError: the file is missing or damaged.
    """
    ids, values = load_log_probabilities(paths.predictions)
    return ids, np.exp(values)


def load_log_probabilities(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Load image ids [N] and log-probabilities [N, classes] from a file of predictions.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, values = file["ids"], unpack_log_probabilities(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is missing or damaged: run the study again") from error
    return ids.astype(np.int64), values
