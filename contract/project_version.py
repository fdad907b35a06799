"""The project's name and version, which studies and folders of images record."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

OWN_NAME = "unfreeze"


def own_version() -> str:
    """The version in a checkout's pyproject.toml, because installed metadata may be older; else of these."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.exists():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return importlib.metadata.version(OWN_NAME)
