"""A worker's process imports this module at its start, and with it the one that the environment names."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

MODULE, FOLDER = "UNFREEZE_PRELOAD", "UNFREEZE_PRELOAD_FOLDER"
"""Variables with the module's name, and with the folder in which a process tells that it has imported it."""


def preload() -> None:
    """Import the module, and leave an empty file named by the process, whether that worked or not."""
    module, folder = os.environ.get(MODULE), os.environ.get(FOLDER)
    if not module or not folder:
        return
    try:
        importlib.import_module(module)
    finally:  # a trial that fails to import it says why
        if Path(folder).is_dir():
            Path(folder, str(os.getpid())).touch()


preload()
