"""Groups: how many trials share a worker's lease, and in which order trials wait for one."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from cluster.search.trial_status import TrialStatus

GroupOf = Callable[[Mapping[str, Any]], Hashable | None]
"""What a configuration must have in common with another to train beside it; None: it trains alone."""

MAX_GROUP_SIZE = 16
ROUNDS = 4
MAX_CRASHES_TOGETHER = 1


def group_size(num_trials: int, *, slots: int) -> int:
    """Most trials of a lease: small enough that every slot takes at least four leases, one after the other.

    So all slots are busy, and the sampler learns from the first ones. Above 16 the handing out costs nothing
    that could be saved.
    """
    return max(1, min(MAX_GROUP_SIZE, num_trials // (ROUNDS * slots)))


def proposals_size(size: int, *, num_left: int, slots: int) -> int:
    """Most trials of a lease that new ones join: ever fewer towards the end, so that all slots end at once.

    With one slot there is nobody to wait for; and what a killed driver proposes again stays the same.
    """
    return size if slots == 1 else max(1, min(size, num_left // (2 * slots)))


class Waiting:
    """The unfinished trials that no worker has, in the order they are handed out.

    It follows from the records alone, so that a continued study goes on in the same order.
    """

    def __init__(self, trials: Iterable[TrialStatus]) -> None:
        active = sorted((trial for trial in trials if trial.is_active), key=_number)
        self._cut_off: deque[list[TrialStatus]] = deque()
        self._unfinished = [trial for trial in active if trial.attempt and not trial.is_cut_off]
        self.proposed = deque(trial for trial in active if not trial.attempt)
        """Never handed out yet."""
        leases = defaultdict(list)
        for trial in active:
            if trial.is_cut_off:
                leases[trial.lease_number].append(trial)
        for _, members in sorted(leases.items(), key=lambda item: item[0] or 0):
            self.retry(members)

    def retry(self, members: list[TrialStatus]) -> None:
        """A lease that its worker did not finish: ahead of all else, and as it was.

        Once more together, since a lost node is likelier than a trial that kills its worker; then each alone,
        so that one that does takes nobody along.
        """
        together = [trial for trial in members if trial.crashes <= MAX_CRASHES_TOGETHER]
        self._cut_off += [[trial] for trial in members if trial.crashes > MAX_CRASHES_TOGETHER]
        if together:
            self._cut_off.append(together)

    def put_back(self, trial: TrialStatus) -> None:
        """It came as far as its lease went, and goes on."""
        self._unfinished = sorted([*self._unfinished, trial], key=_number)

    def take_cut_off(self) -> list[TrialStatus]:
        return self._cut_off.popleft() if self._cut_off else []

    def take_unfinished(
        self, limit: int, *, fits: Callable[[TrialStatus], bool] = lambda _: True
    ) -> list[TrialStatus]:
        """At most so many, the lowest numbers first."""
        taken = [trial for trial in self._unfinished if fits(trial)][:limit]
        self._unfinished = [trial for trial in self._unfinished if trial not in taken]
        return taken


def _number(trial: TrialStatus) -> int:
    return trial.number
