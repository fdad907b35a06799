"""Writes a folder of synthetic images: class folders first, and the list that makes it complete last."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from contract.files import fill_aside, remove_leftovers, save_bytes
from contract.synthetic_images import FILE_NAME, SyntheticImages, image_name
from trainables.synthesis.copies import Copy, CopyFinder
from trainables.synthesis.features import Pixels
from trainables.synthesis.networks import Generator
from trainables.synthesis.sheet import png_bytes
from trainables.synthesis.training import generate

MOST_DRAWN = 3
"""Images that are drawn at most for each that is wanted, where many are copies of real ones."""

MOST_BYTES = 60
"""Most bytes of a folder's name, so that it can be made on every file system."""

RESERVED = frozenset(("con", "prn", "aux", "nul", "train", "val", "valid", "validation", "test"))
"""Names in lower case that Windows keeps for devices, and those that listings take for a split."""


class OutputFolder:
    """The files of a folder of synthetic images, and of the training behind it, which listings pass over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.training = folder / ".training"
        self.checkpoint = self.training / "checkpoint.pt"
        self.settings = self.training / "settings.json"
        self.copies = self.training / "copies"
        """Generated images that were left out, being copies of real ones."""
        self.lock = self.training / "lock"
        self.sheet = folder / "samples.png"

    def write_sheet(self, sheet: Image.Image, epoch: int) -> None:
        """Replace the sample sheet; those of the epochs 1, 2, 4, 8 and so on are kept."""
        content = png_bytes(sheet)
        save_bytes(self.sheet, content, durable=False)
        if epoch & (epoch - 1) == 0:
            save_bytes(self.training / f"samples_{epoch:04d}.png", content, durable=False)

    def begin(self) -> None:
        """Remove what an earlier run has finished: its images, the copies left out, and its list last."""
        remove_leftovers(self.folder)
        with suppress(ValueError):  # none is there, or none that can be read
            for row in SyntheticImages.load(self.folder).classes:
                _remove_images(self.folder / row.folder)
        if self.copies.is_dir():
            for folder in self.copies.iterdir():
                _remove_images(folder)
        (self.folder / FILE_NAME).unlink(missing_ok=True)

    def write_class(self, name: str, images: Pixels) -> None:
        """Replace the images [N, S, S, 3] of a class folder."""
        _write_images(self.folder / name, images)

    def write_copies(self, name: str, images: Pixels) -> None:
        """Keep the images of a class that are copies where one can look at them."""
        if len(images):
            _write_images(self.copies / name, images)


def _write_images(folder: Path, images: Pixels) -> None:
    with fill_aside(folder, replace=True) as part:
        for number, image in enumerate(images):
            (part / image_name(number)).write_bytes(png_bytes(Image.fromarray(image)))


def _remove_images(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.unlink()
    with suppress(OSError):  # something else lies in it, which is left alone
        folder.rmdir()


def draw_images(
    generator: Generator, label: int, *, number: int, seed: int, finder: CopyFinder | None
) -> tuple[Pixels, Pixels, list[Copy]]:
    """Generate images of a class until there are as many as wanted without copies of real ones.

    Args:
        number: images wanted.
        finder: finds copies; None keeps all.

    Returns:
        The images [N, S, S, 3], N <= `number`; those that are copies; and what they are copies of.
    """
    kept: list[Pixels] = []
    left_out: list[Pixels] = []
    copies: list[Copy] = []
    wanted, drawn = number, 0
    while wanted > 0 and drawn < MOST_DRAWN * number:
        count = min(max(wanted, 16), MOST_DRAWN * number - drawn)
        labels = np.full(count, label, dtype=np.int64)
        images = generate(generator, labels, seed=seed, purpose=f"images of class {label}", number=drawn)
        found = finder.find(images) if finder else []
        rows = [one.generated for one in found]
        left_out.append(images[rows])
        copies += found
        kept.append(np.delete(images, rows, axis=0)[:wanted])
        wanted -= len(kept[-1])
        drawn += count
    return np.concatenate(kept), np.concatenate(left_out), copies


def name_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for each class: its own where that is safe on every file system, else one like it."""
    names: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(classes):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9_ -]+", "_", plain).strip(" _-")[:MOST_BYTES].rstrip()
        if not plain or plain.casefold() in taken | RESERVED:
            plain = f"{plain or 'class'}_{number}"
        taken.add(plain.casefold())
        names.append(plain)
    return names
