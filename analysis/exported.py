"""What the analysis knows of an exported classifier's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

PROGRAM = "classifier.pt2"
CARD = "export.json"


def export_digest(directory: Path) -> str | None:
    """A hash of both files, which tells one export from another; None unless both are there."""
    digest = hashlib.sha256()
    try:
        for name in (CARD, PROGRAM):
            with (directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except FileNotFoundError:
        return None
    return digest.hexdigest()[:16]
