"""Tells by their names which files of a folder are images, and which are there for other programs."""

from __future__ import annotations

import os

from contract.image_formats import readable_suffixes

IMAGE_SUFFIXES = readable_suffixes()
SIDE_FOLDERS = frozenset(
    (
        "@eadir",
        "@tmp",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "__pycache__",
        "lost+found",
        "node_modules",
        "recycler",
        "system volume information",
    )
)
"""Folders that file servers and other programs leave beside people's files, in lower case."""

SIDE_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db"))


def is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (hot)


def is_hidden(name: str) -> bool:
    """True for names that no listing shows: hidden ones, and the side folders and files of other programs."""
    return name.startswith(".") or name.lower() in SIDE_FOLDERS or name.lower() in SIDE_FILES
