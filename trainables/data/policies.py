"""Augmentation policies by name: what may happen to an image, and how strongly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from contract.files import did_you_mean

VERSION = 2
"""Version of how views are drawn and applied: to be raised when either changes, since stored activations of
old views are then wrong."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may happen to an image; every range is drawn from uniformly and independently."""

    flip: bool = False
    """Mirror left and right, half the time."""

    flip_vertical: bool = False
    """Mirror top and bottom, half the time."""

    shift: float = 0.0
    """Largest move in each direction, as a share of the side; the image goes on as `padding` says."""

    random_crop: bool = False
    """Cut a window of the view's size anywhere in the stored square (HyperRule's crop)."""

    min_area: float = 1.0
    """Smallest share of the image's area that is cut out and enlarged to the whole view."""

    max_aspect: float = 1.0
    """Largest ratio of the cut-out's sides."""

    rotation: float = 0.0
    """Largest angle in degrees, either way."""

    zoom: float = 0.0
    """Largest relative change of scale, either way."""

    padding: Literal["reflection", "border"] = "reflection"
    brightness: float = 0.0
    """Largest relative change, as for contrast and saturation."""

    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Largest rotation of the colour circle, in turns."""

    automatic: Literal["", "randaugment", "trivialaugment"] = ""
    """Operations drawn from a list of fourteen: two of a fixed strength, or one of any strength."""

    erasing: float = 0.0
    """Probability that a rectangle is greyed out."""

    @property
    def resamples(self) -> bool:
        """Whether pixels are interpolated, not only moved."""
        return bool(self.min_area < 1 or self.max_aspect > 1 or self.rotation or self.zoom)

    @property
    def only_mirrors(self) -> bool:
        """Whether an image has two or four views in all: itself, and what mirrors make of it."""
        return replace(self, flip=False, flip_vertical=False) == Policy() and self != Policy()

    @property
    def recolours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


POLICIES = {
    "none": Policy(),
    "flip": Policy(flip=True),
    "flips": Policy(flip=True, flip_vertical=True),
    "shift": Policy(shift=0.1),
    "zoom": Policy(flip=True, zoom=0.2),
    "rotation": Policy(flip=True, rotation=15),
    "contrast": Policy(flip=True, contrast=0.3),
    "colour": Policy(flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
    "random_crop": Policy(flip=True, random_crop=True),
    "random_resized_crop": Policy(flip=True, min_area=0.08, max_aspect=4 / 3),
    "random_erasing": Policy(flip=True, erasing=0.5),
    "randaugment": Policy(flip=True, shift=0.125, automatic="randaugment"),
    "trivialaugment": Policy(flip=True, shift=0.125, automatic="trivialaugment"),
    "light": Policy(flip=True, shift=0.1),
    "medium": Policy(flip=True, min_area=0.5, max_aspect=4 / 3, brightness=0.2, contrast=0.2, saturation=0.2),
    "strong": Policy(
        flip=True,
        min_area=0.3,
        max_aspect=4 / 3,
        rotation=15,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.05,
        erasing=0.25,
    ),
    # Published ones; the ids are those of docs/systems.md.
    "bit": Policy(flip=True, random_crop=True),
    "bit_no_flip": Policy(random_crop=True),
    "plants_b9": Policy(flip=True, flip_vertical=True, shift=0.1),
    "imagenette": Policy(flip=True, random_crop=True, erasing=0.5),
    "scenes_d9": Policy(flip=True, shift=0.1, zoom=0.1),
    "flowers_e7": Policy(flip=True, shift=0.2, zoom=0.2, contrast=0.3),  # 45 px of 224
    "digits_safe": Policy(shift=0.08, rotation=10, zoom=0.1, padding="border"),
}
"""Strengths are named, never continuous: a strength of its own would make every view private to its trial."""


def names() -> tuple[str, ...]:
    return tuple(POLICIES)


def find_policy(name: str) -> Policy:
    """The policy of this name.

    Raises:
        ValueError: no such policy.
    """
    if name not in POLICIES:
        hint = did_you_mean(name, POLICIES)
        known = f"known are {', '.join(POLICIES)}"
        raise ValueError(
            f"no augmentation policy is called {name!r}; {' '.join(filter(None, (hint, known)))}"
        )
    return POLICIES[name]


def policy_identity(name: str) -> str:
    """The name and a hash of its settings: stored views of a policy that was edited are not read again."""
    content = f"{VERSION} {find_policy(name)}".encode()
    return f"{name}-{hashlib.blake2b(content, digest_size=4).hexdigest()}"
