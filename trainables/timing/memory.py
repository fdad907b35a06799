"""SpeedMemory: seconds that this machine took, by what it did; a file in the cache folder keeps them."""

from __future__ import annotations

import json
import socket
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.files import save_json

NUM_SAMPLES = 5
"""Newest samples that are kept of each figure."""
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass of a backbone over images; figures are seconds per image."""

    backbone: str
    image_size: int
    depth: int | str | None
    """Unfreeze depth whose suffix trains; None = the whole network forward, frozen."""

    device: str
    """"cpu" or "gpu"."""

    threads: int
    """CPU threads of a worker."""

    @property
    def key(self) -> str:
        what = "forward" if self.depth is None else f"train {self.depth}"
        return f"{self.backbone} {self.image_size} {self.device} {self.threads} {what}"


class SpeedMemory:
    """Figures of this machine; a file that is damaged or cannot be written is as good as none."""

    def __init__(self, cache_dir: Path) -> None:
        self.path = cache_dir / f"speeds-{socket.gethostname()}.json"
        self._figures = self._load()

    def seconds(self, name: str) -> float | None:
        """The median of the newest samples of a figure; None if there are none."""
        samples = self._figures.get(name)
        return statistics.median(samples) if samples else None

    def least_seconds(self, name: str) -> float | None:
        """The least of the newest samples of a figure; None if there are none."""
        return min(self._figures.get(name, ()), default=None)

    def passes(self, *, backbone: str, device: str, threads: int) -> dict[tuple[int, str], float]:
        """Seconds per image by (image size, "forward" or "train DEPTH") that were measured for a backbone.

        The least of the newest samples counts: other work on the machine makes passes slower, never faster.
        """
        found = {}
        for name in self._figures:
            parts = name.split(" ", 4)
            if len(parts) == 5 and parts[0] == backbone and parts[2:4] == [device, str(threads)]:
                found[int(parts[1]), parts[4]] = min(self._figures[name])
        return found

    def note(
        self, measured: Mapping[str, float] | Iterable[tuple[str, float]], *, keeps: bool = True
    ) -> None:
        """Add samples, with those that other commands have added meanwhile, and save the file.

        Args:
            keeps: False for a dry run, which writes nothing.
        """
        self._figures = self._load()
        for name, seconds in measured.items() if isinstance(measured, Mapping) else measured:
            if seconds > 0:
                self._figures[name] = [*self._figures.get(name, ()), float(seconds)][-NUM_SAMPLES:]
        if not keeps:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_json(self.path, {"format": _FORMAT, "seconds": self._figures}, durable=False)
        except OSError:  # a cache folder that is full or read-only: the next command measures again
            return

    def _load(self) -> dict[str, list[float]]:
        try:
            known: Any = json.loads(self.path.read_text(encoding="utf-8"))
            if known["format"] != _FORMAT:
                return {}
            return {str(name): [float(x) for x in samples] for name, samples in known["seconds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
