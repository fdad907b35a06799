"""The 1,797 handwritten digits inside scikit-learn, written once as PNG files: works without a network."""

from __future__ import annotations

from pathlib import Path

from contract.files import fill_aside
from contract.study_layout import CachePaths
from trainables.data.datasets._folder import list_folder
from trainables.data.datasets._listing import ImageListing

NAMES = ("digits",)


def load_listing(name: str, *, cache_dir: Path) -> ImageListing:
    folder = CachePaths(cache_dir.absolute()).datasets / name
    if not folder.is_dir():
        _write_digits(folder)
    return list_folder(folder)


def _write_digits(folder: Path) -> None:
    """Fill a temporary folder and rename it, so that no process ever sees half of it."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with fill_aside(folder) as temporary:
        for label in range(10):
            (temporary / str(label)).mkdir()
        pixels = (digits.images * (255 / 16)).round().astype("uint8")
        for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
            Image.fromarray(image).save(temporary / str(label) / f"{number:04d}.png")
