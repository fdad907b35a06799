"""LeaseSource: what Ray's edge asks of whatever hands out leases, a search or final trainings."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Protocol

from contract.lease_errors import LeaseError
from contract.messages import Decision, Lease, Report, State
from contract.probes import ProbeReport


class Done(enum.Enum):
    """Type of DONE, which `LeaseSource.next_lease` returns after the last lease."""

    DONE = "no trial is left"


DONE = Done.DONE


class LeaseSource(Protocol):
    """Hands out leases and takes what their workers report; whatever it answers is recorded before."""

    ends_at: float
    """Unix time at which the time budget ends."""

    out_of_time: bool
    """It has ended because nothing that is left can end within the time budget."""

    failure: str | None
    """Why it cannot go on, once it cannot."""

    stopping: bool
    """No lease is handed out any more; the next run goes on."""

    num_trials: int
    """Number of trials or final trainings in all."""

    @property
    def noun(self) -> str:
        """ "trial" or "final": what is numbered."""

    @property
    def metric(self) -> str:
        """The metric that is shown."""

    @property
    def finished(self) -> bool:
        """Nothing is left to run."""

    @property
    def out_of_gain(self) -> bool:
        """--patience is used up."""

    @property
    def is_probing(self) -> bool:
        """Some probe has no result yet."""

    @property
    def num_probes(self) -> tuple[int, int]:
        """Number of probes that are done, and of all."""

    def next_lease(self) -> Lease | Done | None: ...
    def lease_started(self, lease: Lease) -> None: ...
    def receive(self, reports: Iterable[Report], *, worker: str | None = None) -> list[Decision]: ...
    def receive_probes(self, reports: Sequence[ProbeReport], *, worker: str | None = None) -> None: ...
    def goes_on(self, lease: Lease) -> bool: ...
    def lease_ended(self, lease: Lease, error: LeaseError | None = None) -> list[Decision]: ...
    def stop(self, failure: str | None = None) -> None: ...
    def set_slots(self, slots: int) -> None: ...
    def counts(self) -> dict[State, int]: ...
    def best(self) -> tuple[int, float] | None: ...

    def kept_value(self, number: int) -> float | None:
        """The shown metric at the kept epoch so far; None without one."""

    def num_epochs(self, number: int) -> int:
        """Number of epochs that a trial has."""

    def has_ended(self, number: int) -> bool:
        """It has its outcome."""
