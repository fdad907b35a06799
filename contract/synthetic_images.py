"""The list in a folder of synthetic images, which `synthesize` writes and tune.py --synthetic reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from contract.files import plural, printable, save_json

FORMAT = 1
"""Version of the file; a reader refuses any other."""

FILE_NAME = "synthetic.json"
"""Name of the list in its folder. It is written last: a folder without it is not finished."""

DIGEST_LENGTH = 16
"""Leading hex digits of an image's sha256 that `train_digests` keeps: enough to tell images apart."""


@dataclass(frozen=True, kw_only=True)
class SyntheticClass:
    """The synthetic images of one class."""

    name: str
    """The class as the data call it."""

    folder: str
    """Name of its folder beside the list; its characters are safe on every file system."""

    images: int
    """Number of images in the folder: 00000.png, 00001.png and so on, without a gap."""


@dataclass(frozen=True, kw_only=True)
class SyntheticImages:
    """What a folder of synthetic images holds, what it was made from, and how good it was measured to be."""

    source: str
    """The real images, as `ImageListing.source` names them."""

    fingerprint: str
    """Fingerprint of the real images with their split, as study.json records it for a study of them."""

    split_seed: int
    """Seed of the split whose train images the generator was trained on."""

    image_size: int
    """Side of every image in pixels."""

    generator: str
    """How the images were made, in words: "conditional GAN"."""

    seed: int
    """Seed of the generator's training and of the images."""

    classes: tuple[SyntheticClass, ...]
    """Classes with images, in the order of the real data's classes."""

    quality: Mapping[str, Any] = field(default_factory=dict)
    """Measures of the images by name, "overall" and, by class, under "classes"."""

    train_digests: tuple[str, ...] = ()
    """First DIGEST_LENGTH hex digits of the sha256 of each file that the generator was trained on, sorted."""

    created_with: str = ""
    """Version of the project that wrote the folder."""

    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Write the list into the folder; its images must be there already."""
        save_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the list that `save` wrote.

        Raises:
            ValueError: in one line, why the folder cannot be read as one of synthetic images.
        """
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"{printable(folder)} holds no finished synthetic images ({FILE_NAME} is missing): "
                "python -m trainables synthesize --out writes them"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{printable(path)} cannot be read as a list of synthetic images: {error}"
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise ValueError(
                f"{printable(path)} has the format {found!r}, and this version reads {FORMAT}: "
                "write the images anew with python -m trainables synthesize"
            )
        try:
            return cls._of(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{printable(path)} is a damaged list of synthetic images: {error}") from None

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Self:
        lists = {
            "classes": tuple(SyntheticClass(**row) for row in content["classes"]),
            "train_digests": tuple(content["train_digests"]),
        }
        return cls(**{**content, **lists})

    def list_images(self, folder: Path) -> dict[str, list[Path]]:
        """Paths of the images in the folder, in order, by class name.

        Raises:
            ValueError: a class has other images than the list says.
        """
        found = {}
        for row in self.classes:
            paths = [folder / row.folder / image_name(number) for number in range(row.images)]
            there = len(list((folder / row.folder).glob("*.png")))
            if there != row.images or not all(path.is_file() for path in paths):
                raise ValueError(
                    f"{printable(folder / row.folder)} has {plural(there, 'image')}, and {FILE_NAME} says "
                    f"{row.images}: write the folder anew with python -m trainables synthesize"
                )
            found[row.name] = paths
        return found

    def trained_on(self, digests: Collection[str]) -> set[str]:
        """Return those sha256 digests (whole, in hex) whose files the generator was trained on."""
        known = set(self.train_digests)
        return {digest for digest in digests if digest[:DIGEST_LENGTH] in known}


def image_name(number: int) -> str:
    """Name of a class's image file by its number, from 0: "00000.png"."""
    return f"{number:05d}.png"
