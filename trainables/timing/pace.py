"""Pace: seconds per image of a backbone's passes at an image size, measured or concluded from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.model.backbones import BACKBONES, Backbone
from trainables.timing.memory import SpeedMemory

MULTIPLY_ADDS_A_SECOND = {"cpu": 12e9, "gpu": 1.5e12}
"""Speed of one CPU thread, or of a GPU, where no backbone was ever timed on the machine: lite0 ran at 25e9
and ResNet-50 at 40e9 on one thread of a server's CPU, and a laptop's has less."""
UNKNOWN_MULTIPLY_ADDS = 4e9
"""Number of multiply-adds of a backbone without a figure: those of ResNet-50."""
TRAINED_BY_FORWARD = 3.0
"""Seconds of an update of the whole network, by those of its frozen forward pass."""
SHARES = {0: 0.003, 1: 0.15, 2: 0.45, 3: 0.75, 4: 0.9, "all": 1.0}
"""Share of the whole update that each unfreeze depth costs where it was not timed; lite0 at 128 px."""

MEASURED, OTHER_SIZE, OTHER_BACKBONE, ASSUMED = 1.3, 1.5, 2.0, 4.0
"""Factor by which an estimate may be wrong either way, by what it follows from."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds per image, and by which factor they may be wrong either way."""

    forward: float
    """Seconds of the frozen backbone's forward pass."""

    training: Mapping[str, float]
    """Seconds of forward pass, backward pass and update of the suffix, by unfreeze depth as text."""

    spread: float

    def train(self, depth: int | str) -> float:
        """Seconds of an image's update at a depth: as timed, or by the share of the nearest timed one."""
        known = self.training.get(str(depth))
        if known is not None:
            return known
        share = _share(depth)
        timed = [(abs(_share(_depth(name)) - share), name) for name in self.training]
        if not timed:
            return TRAINED_BY_FORWARD * self.forward * share
        _, nearest = min(timed)
        return self.training[nearest] * share / _share(_depth(nearest))


def find_pace(backbone: Backbone, *, image_size: int, device: str, threads: int, memory: SpeedMemory) -> Pace:
    """Take what was measured at this size, else at another, else conclude it from the multiply-adds."""
    known = memory.passes(backbone=backbone.name, device=device, threads=threads)
    sizes = {size for size, what in known if what == "forward"}
    if sizes:
        size = min(sizes, key=lambda one: abs(math.log(one / image_size)))
        return _scaled(known, size=size, image_size=image_size)
    rate, spread = _find_rate(device, threads, memory)
    giga = backbone.giga_multiply_adds
    spread = spread if giga else ASSUMED
    adds = (giga * 1e9 or UNKNOWN_MULTIPLY_ADDS) * (image_size / 224) ** 2
    return Pace(forward=adds / rate, training={}, spread=spread)


def _scaled(known: Mapping[tuple[int, str], float], *, size: int, image_size: int) -> Pace:
    """The figures of one size, at another: passes over maps take as long as there are pixels."""
    factor = (image_size / size) ** 2
    training = {
        what.removeprefix("train "): seconds * factor
        for (measured_at, what), seconds in known.items()
        if measured_at == size and what != "forward"
    }
    spread = MEASURED if size == image_size else OTHER_SIZE
    return Pace(forward=known[size, "forward"] * factor, training=training, spread=spread)


def _find_rate(device: str, threads: int, memory: SpeedMemory) -> tuple[float, float]:
    """Multiply-adds a second of a frozen pass, as other backbones showed, and how sure that is."""

    rates = []
    for row in BACKBONES.values():
        found = (
            memory.passes(backbone=row.name, device=device, threads=threads) if row.giga_multiply_adds else {}
        )
        rates += [
            row.giga_multiply_adds * 1e9 * (size / 224) ** 2 / seconds
            for (size, what), seconds in found.items()
            if what == "forward"
        ]
    if rates:
        return sorted(rates)[len(rates) // 2], OTHER_BACKBONE
    return MULTIPLY_ADDS_A_SECOND[device] * (threads if device == "cpu" else 1), ASSUMED


def _share(depth: int | str) -> float:
    if depth in SHARES:
        return SHARES[depth]
    return SHARES["all"] if isinstance(depth, int) else 0.7  # "layers:N", "from:MODULE"


def _depth(name: str) -> int | str:
    return int(name) if name.isdigit() else name
