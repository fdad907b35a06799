"""Runs a function as another user of this machine, in a child process: only root can."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
STRANGER = 54321
"""A user without an entry in /etc/passwd."""


def call_as(user: int, function: Callable[[], object], *, umask: int = 0o022) -> str:
    """Return what the function returned, or the error that it raised, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.umask(umask)
            told = str(function())
        except BaseException:  # the child must not come back into pytest
            told = traceback.format_exc()
        os.write(writing, told.encode(errors="replace")[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


def open_way(folder: Path) -> Path:
    """Let every user enter a test's folder: pytest makes its own private."""
    for place in (folder, *folder.parents):
        if place == Path("/tmp"):
            break
        if place.stat().st_uid == os.getuid() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o055)
    return folder
