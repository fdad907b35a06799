"""Remembers the near copies of an image store beside it, so that they are looked for once."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from contract.files import save_json
from trainables.checks.near_copies import Progress, find_near_copies
from trainables.images.cache_room import copies_beside
from trainables.images.store import ImageStore

VERSION = 2
"""Raise it when other pairs are found: what was remembered then no longer counts."""

SMALLEST_SIDE = 32
"""Pictures with a shorter side are compared by content only: the thresholds were tried on larger ones, and
upscaled they have little detail by which a copy differs from another picture like it."""


MOST_IMAGES = 200_000
"""Images beyond which a search does not look for near copies: the time is quadratic, four minutes of CPU for
100,000 and about four hours for a million."""


def find_copies(store: ImageStore, *, progress: Progress | None = None) -> list[tuple[int, int]] | None:
    """Pairs of rows of the store that are near copies, the smaller row first; None for too many images.

    Args:
        progress: called with (images read, images in all); not at all where the pairs are known.
    """
    large = [min(fact.width, fact.height) >= SMALLEST_SIDE for fact in store.facts]
    rows = np.flatnonzero(store.readable & np.array(large, dtype=np.bool_))
    if len(rows) > MOST_IMAGES:
        return None
    known = _recall(copies_beside(store.path), len(rows)) if store.path else None
    if known is None:
        found = find_near_copies(store.images, rows, progress=progress)
        # By position among the rows: the store's key knows nothing of unreadable files in between.
        position = {int(row): number for number, row in enumerate(rows)}
        known = [(position[copy.first], position[copy.second]) for copy in found]
        if store.path:
            with suppress(OSError):  # a full disk: they are looked for again
                content = {"version": VERSION, "images": len(rows), "pairs": known}
                save_json(copies_beside(store.path), content, durable=False)
    return [(int(rows[first]), int(rows[second])) for first, second in known]


def _recall(path: Path, num_images: int) -> list[tuple[int, int]] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["version"], content["images"]) != (VERSION, num_images):
            return None
        return [(int(first), int(second)) for first, second in content["pairs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
