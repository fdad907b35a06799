"""Why a lease ends before its trials do, and what in an exception says so."""

from __future__ import annotations

from dataclasses import dataclass

from contract.messages import Reason


@dataclass(frozen=True, kw_only=True)
class LeaseError:
    """Reason for which a lease ended before its trials did."""

    message: str
    transient: bool
    """The worker, its node, its accelerator or its storage failed, and the trial itself may be fine: it is
    tried again."""

    reason: Reason = Reason.BUG
    """The trial's reason if it is given up; after DISK_FULL it is not."""


def interruption_of(error: BaseException) -> Reason | None:
    """Read why an exception ends its lease and not its trial: its attribute `interrupts_lease`.

    None means that the exception is the trial's own failure.
    """
    reason: Reason | None = getattr(error, "interrupts_lease", None)
    return reason
