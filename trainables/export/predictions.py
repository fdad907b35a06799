"""Reads what a finished trial's best epoch predicted for the validation images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def load_predictions(directory: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Image numbers [N] and probabilities [N, classes], from the trial's directory.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = directory / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, probabilities = file["ids"], np.exp(file["log_probabilities"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is missing or damaged: run the study again") from error
    return ids.astype(np.int64), probabilities.astype(np.float32)
