"""Tells what a model looked at: by how much its answer weakens where a part of the image is covered.

A grey patch slides over the image, as of M. D. Zeiler and R. Fergus, "Visualizing and Understanding
Convolutional Networks", ECCV 2014, arXiv:1311.2901, section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from contract.decoding import GROUND, Floats

if TYPE_CHECKING:
    from serving.model import Model

BATCH = 16
"""Covered images that are computed at once."""


def explain(model: Model, image: Floats, *, label: str | None = None, size: int = 8) -> dict[str, Any]:
    """Cover parts of an image, and tell by how much each lowers the probability of a class.

    The patch is two cells wide and high, and moves by one: a smaller one hides too little of an object.

    Args:
        image: [3, S, S] in [0, 1], as `ModelCard.read_image` makes it.
        label: the class; None is the one that the model answers.
        size: cells of the grid in a row, and rows.

    Returns:
        `label`, its `probability`, `size`, and `grid`: rows of drops in probability, below 0 where a covered
        part made the class likelier.

    Raises:
        ValueError: the model has no such class, or the image has fewer pixels than the grid has cells.
    """
    side = image.shape[-1]
    if not 1 <= size <= side:
        raise ValueError(f"size must be from 1 to {side}, the image's side, got {size}")
    if label is None:
        label = model.predict(image[None])[0].label
    if label not in model.card.classes:
        raise ValueError(f"the model has no class {label!r}")
    number = model.card.classes.index(label)
    whole = float(model.backend.probabilities(image[None])[0, number])
    covered: list[Floats] = []
    for start in range(0, size * size, BATCH):
        images = np.stack(
            [
                _cover(image, *divmod(cell, size), size)
                for cell in range(start, min(start + BATCH, size * size))
            ]
        )
        covered.append(model.backend.probabilities(images)[:, number])
    drops = (whole - np.concatenate(covered).astype(np.float64)).reshape(size, size)
    return {"label": label, "probability": whole, "grid": np.round(drops, 6).tolist(), "size": size}


def _cover(image: Floats, row: int, column: int, size: int) -> Floats:
    """Lay the patch over the middle of a cell; at the border a part of it lies outside."""
    side = image.shape[-1]
    top, bottom, left, right = (
        round(min(max(place, 0), size) * side / size)
        for place in (row - 0.5, row + 1.5, column - 0.5, column + 1.5)
    )
    found = image.copy()
    found[:, top:bottom, left:right] = (np.array(GROUND, np.float32) / 255)[:, None, None]
    return found
