"""Says when this process began, from which a user counts what the command takes."""

from __future__ import annotations

import time

import psutil


def process_started() -> float:
    """Unix time at which this process began: before Python started and imported anything.

    A clock that was set since would make it lie in the future; then it is now.
    """
    return min(float(psutil.Process().create_time()), time.time())
