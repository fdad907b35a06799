"""Groups: images that must stay in one split, such as those of one patient, or copies of one photo."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def join_groups(
    num_images: int, keys: Iterable[Sequence[Hashable]], pairs: Iterable[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Number the groups of images: two are in one group if they share a key, are a pair, or by way of others.

    Args:
        keys: sequences of one key an image; an empty key is shared by nobody.

    Returns:
        The group of every image [N], numbered in the order of each group's first image.
    """
    edges = list(pairs)
    for sequence in keys:
        first: dict[Hashable, int] = {}
        for position, key in enumerate(sequence):
            if key != "":
                earlier = first.setdefault(key, position)
                if earlier != position:
                    edges.append((earlier, position))
    if not edges:
        return np.arange(num_images, dtype=np.int64)
    from scipy.sparse import coo_array  # a trial's worker, which never joins groups, does without
    from scipy.sparse.csgraph import connected_components

    ends = np.array(edges, dtype=np.int64)
    links = coo_array(
        (np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(num_images, num_images)
    )
    _, labels = connected_components(links, directed=False)
    return number_anew(labels)


def number_anew(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the groups [N] from 0, in the order of each group's first image."""
    _, first_at, numbers = np.unique(groups, return_index=True, return_inverse=True)
    order = np.empty(len(first_at), dtype=np.int64)
    order[np.argsort(first_at, kind="stable")] = np.arange(len(first_at))
    return order[numbers]


def take_pairs(pairs: Iterable[tuple[int, int]], keep: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The pairs of positions of which both are kept, counted among those [N] that are."""
    position = np.cumsum(keep) - 1
    return [(int(position[a]), int(position[b])) for a, b in pairs if keep[a] and keep[b]]
