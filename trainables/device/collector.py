"""Python's garbage collector, kept out of imports."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Collect no garbage meanwhile, and look at nothing made meanwhile ever again.

    Importing torch and timm makes a million objects that stay, and the collector goes through all of them
    again and again: 1 s of a worker's 4 s.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
