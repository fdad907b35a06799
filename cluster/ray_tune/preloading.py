"""A worker's process imports this module at its start, and with it the one that the environment names."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from cluster.ray_tune.spare import fork_spare

MODULE, FOLDER = "UNFREEZE_PRELOAD", "UNFREEZE_PRELOAD_FOLDER"
"""Variables with the module's name, and with the folder in which a process tells that it has imported it."""

DRIVER = "UNFREEZE_PRELOAD_DRIVER"
"""Variable with the process id of the driver on this machine."""


def preload() -> None:
    """Import the module, and leave an empty file named by the process, whether that worked or not.

    The first process forks a spare one; on macOS, where a fork may not use the system's libraries, none does.
    """
    module, folder = os.environ.get(MODULE), os.environ.get(FOLDER)
    if not module or not folder:
        return
    try:
        importlib.import_module(module)
        if sys.platform == "linux":
            fork_spare(Path(folder), owner=int(os.environ[DRIVER]))
    finally:  # a trial that fails to import it says why
        if Path(folder).is_dir():
            Path(folder, str(os.getpid())).touch()


preload()
