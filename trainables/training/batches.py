"""How an epoch's images are cut into the batches of its updates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EVALUATION_BATCH = 128


def cut_batches(order: NDArray[np.int64], *, size: int, limit: int = 0) -> list[NDArray[np.int64]]:
    """The batches in order; a last image on its own is left out, as it has no batch statistics.

    Args:
        limit: most batches; 0 = all.
    """
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < 2:
        batches.pop()
    return batches[:limit] if limit else batches


def cut_evaluation(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Batches for looking at images without training on them."""
    return [positions[at : at + EVALUATION_BATCH] for at in range(0, len(positions), EVALUATION_BATCH)]
