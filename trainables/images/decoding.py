"""Decodes image files to small squares, and says of each that cannot be read why."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.decoding import Fit, Pixels, UnreadableImage, decode_square
from contract.files import find_os_error
from trainables.data.storage_faults import StorageFault, wait_out_faults


@dataclass(frozen=True)
class ImageFact:
    """What decoding an image file found out."""

    ok: bool
    reason: str
    """Why it cannot be read; empty when it can."""

    width: int
    height: int
    """In pixels, as the image is meant to be seen (orientation applied); 0 when it cannot be read."""

    digest: str
    """Hash of the file's content; empty when there is none."""


def decode_files(paths: Sequence[Path], size: int, fit: Fit) -> tuple[Pixels, list[ImageFact]]:
    """Decode files to [N, size, size, 3]; the pixels of unreadable ones are zero.

    Raises:
        StorageFault: a passing fault kept a file from being read, which says nothing about the image.
    """
    pixels = np.zeros((len(paths), size, size, 3), dtype=np.uint8)
    return pixels, [_decode_file(path, pixels[row], fit) for row, path in enumerate(paths)]


def _decode_file(path: Path, out: Pixels, fit: Fit) -> ImageFact:
    try:
        content = wait_out_faults(path.read_bytes)
    except StorageFault:
        raise
    except OSError as error:
        return unreadable(error)
    digest = digest_of(content)
    try:
        square = decode_square(content, size=len(out), fit=fit)
    except UnreadableImage as error:
        if fault := find_os_error(error):  # in a file of Pillow's own, such as a decoder that it loads
            raise fault from error
        return ImageFact(ok=False, reason=str(error), width=0, height=0, digest=digest)
    out[:] = square.pixels
    return ImageFact(ok=True, reason="", width=square.width, height=square.height, digest=digest)


def digest_of(content: bytes) -> str:
    """The name of this content in every key: sha256, in hex."""
    return hashlib.sha256(content).hexdigest()


def unreadable(error: OSError) -> ImageFact:
    """What is known of a file that the system does not give out."""
    return ImageFact(ok=False, reason=error.strerror or str(error), width=0, height=0, digest="")
