"""The 1,797 handwritten digits inside scikit-learn, written once as PNG files: works without a network."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from trainables.data.datasets._folder import list_folder
from trainables.data.datasets._listing import ImageListing

NAMES = ("digits",)


def load_listing(name: str, *, cache_dir: Path) -> ImageListing:
    folder = cache_dir.absolute() / "datasets" / name
    if not folder.is_dir():
        _write_digits(folder)
    return list_folder(folder)


def _write_digits(folder: Path) -> None:
    """Fill a folder beside and rename it, so that nobody ever sees half of it."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".digits-", dir=folder.parent))
    partial.chmod(0o755)
    try:
        for label in range(10):
            (partial / str(label)).mkdir()
        pixels = (digits.images * (255 / 16)).round().astype("uint8")
        for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
            Image.fromarray(image).save(partial / str(label) / f"{number:04d}.png")
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
