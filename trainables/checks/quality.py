"""Pictures that are odd in themselves: blank, dark, bright, flat, blurred, grainy, small, of another shape.

An image is odd if its measure lies far from the usual among all images *and* among those of its class: a
class of night photos is dark as a whole, and no picture of it is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.machine import count_cpus
from trainables.images.decoding import ImageFact
from trainables.images.store import Images, Progress

Numbers = NDArray[np.float64]

ODD = 4.0
"""Robust standard deviations (1.4826 median absolute deviations) from the median that count as odd."""

MOST_BLANK = 1.5
"""Standard deviation of the grey values, 0 to 255, up to which a picture is one flat colour."""

DARK, BRIGHT = 85.0, 170.0
"""A third and two thirds of the range: a dark picture has hardly a pixel above, a bright one below."""

FEWEST = 20
"""Readable images that a class needs to be compared within itself; a smaller one is compared with all."""

CHUNK = 64
TAIL = 0.02
"""Share of an image's pixels that its darkest and its brightest value leave out."""


@dataclass(frozen=True, eq=False)
class Measures:
    """What is measured of every image, in the listing's order; NaN where it cannot be read."""

    lightest: Numbers
    """Value of the strongest channel, 0 to 255, that 2 % of the pixels exceed: a red rose is not dark."""

    darkest: Numbers
    """Value of the weakest channel below which 2 % of the pixels are."""

    contrast: Numbers
    """Standard deviation of the grey values."""

    detail: Numbers
    """Variance of the Laplacian over that of the grey values, as a power of 2; NaN for blank images."""

    side: Numbers
    """Shorter side of the file's image in pixels."""

    aspect: Numbers
    """Width over height."""


@dataclass(frozen=True)
class OddPicture:
    """One oddity of one image."""

    image: int
    kind: str
    """A name of KINDS."""

    distance: float
    """Robust standard deviations from the usual of all or of the class, if nearer; infinite if blank."""

    text: str
    """What is odd, with the number and the usual one."""


KINDS = {
    "blank": "One flat colour, or nearly",
    "dark": "Very dark",
    "bright": "Very bright",
    "flat": "Hardly any contrast",
    "blurred": "Blurred, or without detail",
    "grainy": "Grainy, or full of noise",
    "small": "Much smaller than the others",
    "shape": "Another shape than the others",
}
"""Kinds of odd pictures with their titles, in the order they are shown."""


@dataclass(frozen=True)
class _Rule:
    """How one kind is told: its measure, which end of it is odd, and the words for it."""

    kind: str
    measure: Callable[[Measures], Numbers]
    sign: int
    """+1: large values are odd; -1: small ones."""

    floor: float
    """Least spread: where all images are alike, a difference smaller than ODD of these is not named."""

    say: Callable[[Measures, int, int], str]
    """Words for an image, and for a typical one."""

    only: Callable[[Measures], NDArray[np.bool_]] | None = None
    """Images that may be named at all."""


_RULES = (
    _Rule(
        "dark",
        lambda m: m.lightest,
        -1,
        2.0,
        lambda m, at, usual: f"brightest value {m.lightest[at]:.0f} of 255, usually {m.lightest[usual]:.0f}",
        only=lambda m: m.lightest < DARK,
    ),
    _Rule(
        "bright",
        lambda m: m.darkest,
        +1,
        2.0,
        lambda m, at, usual: f"darkest value {m.darkest[at]:.0f} of 255, usually {m.darkest[usual]:.0f}",
        only=lambda m: m.darkest > BRIGHT,
    ),
    _Rule(
        "flat",
        lambda m: np.log2(np.maximum(m.contrast, MOST_BLANK)),
        -1,
        0.2,
        lambda m, at, usual: f"contrast {m.contrast[at]:.1f}, usually {m.contrast[usual]:.0f}",
    ),
    _Rule(
        "blurred",
        lambda m: m.detail,
        -1,
        0.4,
        lambda m, at, usual: f"fine detail {2 ** (m.detail[at] - m.detail[usual]):.2g} times the usual",
    ),
    _Rule(
        "grainy",
        lambda m: m.detail,
        +1,
        0.4,
        lambda m, at, usual: f"fine detail {2 ** (m.detail[at] - m.detail[usual]):.2g} times the usual",
    ),
    _Rule(
        "small",
        lambda m: np.log2(m.side),
        -1,
        0.3,
        lambda m, at, usual: f"shorter side {m.side[at]:.0f} pixels, usually {m.side[usual]:.0f}",
    ),
    _Rule(
        "shape",
        lambda m: np.abs(np.log2(m.aspect)),
        +1,
        0.2,
        lambda m, at, usual: f"{say_aspect(m.aspect[at])}, usually {say_aspect(m.aspect[usual])}",
    ),
)


def measure_images(
    images: Images,
    facts: Sequence[ImageFact],
    *,
    progress: Progress | None = None,
) -> Measures:
    """Measure decoded images [N, S, S, 3], and take their sizes from what decoding found."""
    readable = np.flatnonzero([fact.ok for fact in facts])
    found = np.full((len(facts), 4), np.nan)

    def measure(start: int) -> int:
        rows = readable[start : start + CHUNK]
        found[rows] = _measure(np.asarray(images[rows]))
        return len(rows)

    done = 0
    with ThreadPoolExecutor(count_cpus()) as pool:
        for count in pool.map(measure, range(0, len(readable), CHUNK)):
            done += count
            if progress:
                progress(done, len(readable))
    sizes = np.array([(fact.width, fact.height) for fact in facts], dtype=np.float64).reshape(-1, 2)
    sizes[~np.isin(np.arange(len(facts)), readable)] = np.nan
    lightest, darkest, contrast, detail = found.T
    side, aspect = sizes.min(axis=1), sizes[:, 0] / sizes[:, 1]
    return Measures(lightest, darkest, contrast, detail, side, aspect)


def find_odd_pictures(measures: Measures, labels: NDArray[np.int64]) -> list[OddPicture]:
    """Find what is odd, the kinds in the order of KINDS and the oddest of each first."""
    blank = measures.contrast <= MOST_BLANK
    odd = [
        OddPicture(int(at), "blank", float("inf"), f"contrast {measures.contrast[at]:.1f}")
        for at in np.flatnonzero(blank)
    ]
    for rule in _RULES:
        values = rule.measure(measures)
        away = rule.sign * distances(values, labels, floor=rule.floor)
        named = (away >= ODD) & ~blank & (rule.only(measures) if rule.only else True)
        rows = np.flatnonzero(named)
        rows = rows[np.argsort(-away[rows], kind="stable")]
        if len(rows):
            usual = _typical(values)
            odd += [
                OddPicture(int(at), rule.kind, round(float(away[at]), 1), rule.say(measures, int(at), usual))
                for at in rows
            ]
    return odd


def distances(values: Numbers, labels: NDArray[np.int64], *, floor: float) -> Numbers:
    """Robust standard deviations from the median: the one nearer to 0 of those among all and in the class.

    0 where the value is not finite, and where the two disagree about the direction.
    """
    among_all = _robust_z(values, values, floor)
    within = among_all.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if np.isfinite(values[rows]).sum() >= FEWEST:
            within[rows] = _robust_z(values[rows], values[rows], floor)
    nearer = np.where(np.abs(within) < np.abs(among_all), within, among_all)
    return np.where(within * among_all > 0, nearer, 0.0)


def _robust_z(values: Numbers, reference: Numbers, floor: float) -> Numbers:
    finite = reference[np.isfinite(reference)]
    if not len(finite):
        return np.zeros(len(values))
    middle = np.median(finite)
    spread = max(1.4826 * float(np.median(np.abs(finite - middle))), floor)
    return np.nan_to_num((values - middle) / spread, nan=0.0, posinf=0.0, neginf=0.0)


def _typical(values: Numbers) -> int:
    """Position of the image whose value is the median."""
    finite = np.flatnonzero(np.isfinite(values))
    return int(finite[np.argsort(values[finite], kind="stable")[len(finite) // 2]])


def _measure(pixels: NDArray[np.uint8]) -> Numbers:
    """Lightest, darkest, contrast and detail of a batch [B, S, S, 3]."""
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    red, green, blue = np.moveaxis(pixels[:, ::2, ::2], 3, 0)  # to rank all takes half of the time of this
    lightest = _rank(np.maximum(np.maximum(red, green), blue), 1 - TAIL)
    darkest = _rank(np.minimum(np.minimum(red, green), blue), TAIL)
    spread = grey.std(axis=(1, 2))
    laplacian: NDArray[Any] = (
        grey[:, :-2, 1:-1]
        + grey[:, 2:, 1:-1]
        + grey[:, 1:-1, :-2]
        + grey[:, 1:-1, 2:]
        - 4 * grey[:, 1:-1, 1:-1]
    )
    ratio = laplacian.var(axis=(1, 2)) / np.maximum(spread, MOST_BLANK) ** 2
    detail = np.where(spread > MOST_BLANK, np.log2(np.maximum(ratio, 1e-6)), np.nan)
    return np.stack([lightest, darkest, spread, detail], axis=1).astype(np.float64)


def _rank(values: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The value of each image [B, H, W] that this share of its pixels does not exceed."""
    flat = values.reshape(len(values), -1)
    rank = round(share * (flat.shape[1] - 1))
    return np.partition(flat, rank, axis=1)[:, rank]


def say_aspect(aspect: float) -> str:
    """Width to height, as "3.0:1" or "1:3.0"."""
    return f"{aspect:.1f}:1" if aspect >= 1 else f"1:{1 / aspect:.1f}"
