"""The random numbers of the views."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.data.views import draw_uniform, storage_size


def test_draws_are_uniform_and_their_columns_independent() -> None:
    draws = draw_uniform(0, "light", 1, np.arange(50_000), 4)

    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in draws.T])
    chi_square = ((counts - 2500) ** 2 / 2500).sum(axis=1)
    assert draws.min() >= 0 and draws.max() < 1
    assert (chi_square < 43.8).all()  # 19 degrees of freedom, p = 0.001
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.02


def test_neighbouring_images_epochs_and_seeds_are_uncorrelated() -> None:
    ids = np.arange(20_000)
    draws = draw_uniform(0, "light", 1, ids, 1)[:, 0]

    others = [
        draw_uniform(0, "light", 1, ids + 1, 1)[:, 0],
        draw_uniform(0, "light", 2, ids, 1)[:, 0],
        draw_uniform(1, "light", 1, ids, 1)[:, 0],
        draw_uniform(0, "strong", 1, ids, 1)[:, 0],
        draw_uniform(0, "light", 1, ids, 1, copy=1)[:, 0],
    ]

    assert all(abs(np.corrcoef(draws, other)[0, 1]) < 0.03 for other in others)


def test_a_draw_depends_on_its_image_alone() -> None:
    whole = draw_uniform(3, "bit", 2, np.arange(100), 5)

    part = draw_uniform(3, "bit", 2, np.array([42, 7]), 3)

    assert np.array_equal(part, whole[[42, 7], :3])


def test_draws_never_change_from_one_version_to_the_next() -> None:
    draws = draw_uniform(0, "flip", 1, np.array([0, 1]), 2)

    # Stored activations were computed from these views: another value here makes them wrong.
    assert draws.tolist() == [
        [0.8203438968490688, 0.1969716882962702],
        [0.2800929444558672, 0.4959795162972166],
    ]


@pytest.mark.parametrize(
    ("size", "fit", "stored"),
    [
        (224, "crop", 256),
        (128, "crop", 146),
        (128, "squash", 160),
        (128, "pad", 160),
        (480, "squash", 512),
        (160, "squash", 171),
    ],
)
def test_the_stored_square_leaves_room_for_the_crop(size: int, fit: str, stored: int) -> None:
    assert storage_size(size, fit) == stored  # type: ignore[arg-type]
