"""A full disk is waited for: what a trial writes is tried again until there is room."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

PATIENCE_SECONDS = 600.0
"""As long as a running study waits for its database."""
PAUSE_SECONDS = 2.0


class DiskFull(OSError):
    """There was no room for too long: nothing is wrong with the trial, and the study should stop."""


def write_patiently(write: Callable[[], None]) -> None:
    """Call `write` until it does not fail for want of room; it starts from the beginning each time.

    Raises:
        DiskFull: PATIENCE_SECONDS have passed.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return write()
        except (OSError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            if time.monotonic() > deadline:
                raise DiskFull(errno.ENOSPC, "no space is left on the study's disk") from error
        time.sleep(PAUSE_SECONDS)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind it: torch.save turns that into a RuntimeError about its archive."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
