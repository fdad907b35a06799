"""The names by which columns of people's tables are found: those of paths and of labels."""

from __future__ import annotations

import re

PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file"),
    *("image_name", "img", "img_path", "img_name", "photo", "picture", "fname", "image_id", "img_id", "id"),
)
LABELS = (
    *("label", "labels", "class", "class_name", "classname", "category", "category_name", "target"),
    *("species", "diagnosis", "dx", "tag", "y", "label_id", "class_id", "category_id"),
)
"""Names of columns in lower case, words joined by underscores; the first that is there counts."""


def name_column(name: str) -> str:
    """Bring a column's name into the form in which names are compared."""
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())
