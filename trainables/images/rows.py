"""The images of a store where they are not simply one mapped array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainables.data.views import Fit
from trainables.images.decoding import ImageFact, Pixels, decode_files


class Images(Protocol):
    """What a store's images can do, memory-mapped or not: a numpy array's indexing by row."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Pixels: ...


class SpreadImages:
    """The readable images' rows among rows of zeros for the unreadable ones."""

    def __init__(self, images: Pixels, facts: Sequence[ImageFact]) -> None:
        readable = np.array([fact.ok for fact in facts])
        self._images = images
        self._rows = np.where(readable, np.cumsum(readable) - 1, -1)
        self.shape = (len(facts), *images.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> Pixels:
        stored = self._rows[rows]
        if np.ndim(stored) == 0:
            return np.zeros(self.shape[1:], np.uint8) if stored < 0 else self._images[stored]
        taken = np.zeros((len(stored), *self.shape[1:]), dtype=np.uint8)
        taken[stored >= 0] = self._images[stored[stored >= 0]]
        return taken


class DecodedAtUse:
    """Images that are decoded whenever they are asked for; those that never could be read are zeros."""

    def __init__(self, paths: Sequence[Path], size: int, fit: Fit, facts: Sequence[ImageFact]) -> None:
        """`facts` are what the first look at each file found."""
        self._paths, self._size, self._fit, self._facts = paths, size, fit, facts
        self.shape = (len(paths), size, size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Any, /) -> Pixels:
        """The pixels of these rows.

        Raises:
            OSError: a file has gone, or has another content than at the first look.
        """
        chosen = np.arange(len(self))[rows]
        files = [self._paths[row] for row in np.atleast_1d(chosen)]
        pixels, found = decode_files(files, self._size, self._fit)
        for row, fact in zip(np.atleast_1d(chosen), found, strict=True):
            if fact.digest != self._facts[row].digest:
                what = "has changed" if fact.ok else f"cannot be read any more ({fact.reason})"
                raise OSError(f"{self._paths[row]} {what} since the study's images were looked at")
        return pixels[0] if np.ndim(chosen) == 0 else pixels
