"""Faults of a disk or a network share that pass: one table of them, and how long they are waited for."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from contract.messages import Reason

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")

PATIENCE_SECONDS = 600.0
"""As long as a running study waits for its database."""
PAUSE_SECONDS = 2.0

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Somebody has to free space: the study stops once the waiting was in vain."""

PASSING = FULL | {
    errno.EIO,  # a share whose server was away for longer than its mount waits; a disk on a loose cable
    errno.ESTALE,  # the server was restarted or a file replaced: the next open finds it by its name again
    errno.ETIMEDOUT,  # a soft NFS or a CIFS mount gave up on one request
    errno.ENOTCONN,  # FUSE: the program behind the mount has died and is being started again
    errno.ESHUTDOWN,  # Lustre and CIFS: the connection was closed under a request
    errno.EHOSTDOWN,  # CIFS: the server restarts
    errno.EREMOTEIO,  # the server's own disk failed the request
    errno.ENOLCK,  # the lock daemon of a share does not answer
    errno.EMFILE,  # others in this process hold too many files, and close them again
    errno.ENFILE,  # the same for the whole machine
}
"""What may be over in a moment and says nothing about the file.

Not among them, since waiting changes nothing: a file that is missing or forbidden, a read-only file system,
and ENETUNREACH, ECONNREFUSED and the like, which come from a download without a network and not from a disk.
"""


class StorageFault(OSError):
    """A passing fault that did not pass in time: it says nothing about the trial that met it."""

    @property
    def interrupts_lease(self) -> Reason:
        """The trial is tried again elsewhere; this is its reason if the search gives it up."""
        return Reason.DISK_FULL if self.errno in FULL else Reason.DATA


def wait_out_faults(
    work: Callable[[], ResultT],
    *,
    patience_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ResultT:
    """Call `work` until no passing fault of the storage ends it; each call starts from the beginning.

    Args:
        patience_seconds: how long to go on trying; None = PATIENCE_SECONDS.

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
            fault = find_fault(error)
            if fault is None:
                raise
            if deadline is None:
                deadline = clock() + (PATIENCE_SECONDS if patience_seconds is None else patience_seconds)
                logger.warning("waiting for the storage: %s", _describe(fault))
            if clock() >= deadline:
                raise as_storage_fault(fault) from error
        sleep(PAUSE_SECONDS)


def find_fault(error: BaseException | None) -> OSError | None:
    """The passing fault behind an error, or None; torch.save turns one into a RuntimeError on its archive."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in PASSING:
            return error
        error = error.__cause__ or error.__context__
    return None


def as_storage_fault(fault: OSError) -> StorageFault:
    """The fault as what ends a lease, in one line for the user."""
    if isinstance(fault, StorageFault):
        return fault
    message = "no space is left on the study's disk" if fault.errno in FULL else _describe(fault)
    return StorageFault(fault.errno, message)


def _describe(fault: OSError) -> str:
    where = f": {fault.filename}" if fault.filename else ""
    return f"{fault.strerror or fault}{where}"
