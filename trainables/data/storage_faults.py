"""Waits until a fault of a disk or a network share has passed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from contract.files import DISK_FULL, find_os_error
from contract.messages import Reason

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")

PATIENCE_SECONDS = 600.0
"""Longest wait for the storage; a running study waits as long for its database."""
PAUSE_SECONDS = 2.0


class StorageFault(OSError):
    """Raised when a transient fault did not pass in time: it says nothing about the trial that met it."""

    @property
    def interrupts_lease(self) -> Reason:
        """The trial is tried again elsewhere; this is its reason if the search gives it up."""
        return Reason.DISK_FULL if self.errno in DISK_FULL else Reason.DATA


def wait_out_faults(
    work: Callable[[], ResultT],
    *,
    patience_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ResultT:
    """Call `work` again while a transient fault of the storage ends it; each call starts from the beginning.

    Args:
        patience_seconds: time after the first fault in which it is called again; None = PATIENCE_SECONDS.

    Raises:
        StorageFault: the fault was still there at the end of that time.
    """
    deadline: float | None = None
    while True:
        try:
            return work()
        except StorageFault:
            raise  # it was waited for already
        except Exception as error:
            fault = find_os_error(error)
            if fault is None:
                raise
            if deadline is None:
                deadline = clock() + (PATIENCE_SECONDS if patience_seconds is None else patience_seconds)
                logger.warning("waiting for the storage: %s", _describe(fault))
            if clock() >= deadline:
                raise as_storage_fault(fault) from error
        sleep(PAUSE_SECONDS)


def as_storage_fault(fault: OSError) -> StorageFault:
    """Turn a fault into the error that ends a lease, in one line for the user."""
    if isinstance(fault, StorageFault):
        return fault
    message = "no space is left on the study's disk" if fault.errno in DISK_FULL else _describe(fault)
    return StorageFault(fault.errno, message)


def _describe(fault: OSError) -> str:
    where = f": {fault.filename}" if fault.filename else ""
    return f"{fault.strerror or fault}{where}"
