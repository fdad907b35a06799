"""The choice of a lease's trials: one that waits, and those that may train beside it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from cluster.schedulers import Scheduler
from cluster.search.scores import Scores
from cluster.search.trial_status import TrialStatus
from contract.messages import Lease, LeasedTrial

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


Fits = Callable[[TrialStatus], bool]


class LeaseChoice:
    """Chooses by what the records say, so that a killed search goes on with the leases it would have made."""

    def __init__(
        self,
        trials: Mapping[int, TrialStatus],
        *,
        scheduler: Scheduler,
        scores: Scores,
        group_of: GroupOf,
        num_trials: int,
        ask: Callable[[], TrialStatus | None],
    ) -> None:
        """`trials` is the search's own mapping; `ask` adds a new one to it, or says that none is to come."""
        self.slots = 1
        """Leases at once."""
        self.waiting = Waiting(trials.values())
        self.paused = {n for n, trial in trials.items() if trial.paused and trial.outcome is None}
        self._trials, self._scheduler, self._scores = trials, scheduler, scores
        self._group_of, self._num_trials, self._ask = group_of, num_trials, ask
        self._num_leases = max((trial.lease_number or 0 for trial in trials.values()), default=0)

    def choose(self, running: Mapping[int, int]) -> list[TrialStatus]:
        """A lease that was cut off, as it was; or the next trial in turn, and who goes with it.

        Args:
            running: trial -> epochs it has.
        """
        if members := self.waiting.take_cut_off():
            return members
        first = self.waiting.take_unfinished(1) or self._promote(running) or self._propose()
        group = self.group(first[0]) if first else None
        return first if group is None else self._fill(first, group, running)

    def choose_last(self, running: Mapping[int, int]) -> list[TrialStatus]:
        """One that waits at a rung, when nobody is proposed any more."""
        return self._promote(running, is_last=True)

    def lease(self, members: Sequence[TrialStatus], *, now: float) -> Lease:
        """Begin the members' next attempts."""
        self._num_leases += 1
        return Lease(trials=tuple(self._lease(trial, now=now) for trial in members))

    def group(self, trial: TrialStatus) -> Hashable | None:
        """None where it cannot share a lease: also under a scheduler that may stop it behind any epoch."""
        rungs = self._rungs(trial)
        if rungs is None or group_size(self._num_trials, slots=self.slots) == 1:
            return None
        return self._group_of(trial.config)

    def _lease(self, trial: TrialStatus, *, now: float) -> LeasedTrial:
        rungs = self._rungs(trial) or ()
        shares = self.group(trial) is not None
        trial.lease_number = self._num_leases if shares else None
        trial.until_epoch = next((e for e in rungs if e > trial.num_epochs), None) if shares else None
        ends = () if trial.until_epoch is None else (trial.until_epoch,)
        return trial.lease(now=now, checkpoint_epochs=rungs if self._scheduler.pauses else ends)

    def _rungs(self, trial: TrialStatus) -> tuple[int, ...] | None:
        return self._scheduler.rungs(self._scores.curves.shares(trial.number))

    def _fill(
        self, members: list[TrialStatus], group: Hashable, running: Mapping[int, int]
    ) -> list[TrialStatus]:
        """In this order, which a continued run finds again: unfinished ones, promoted ones, new ones."""
        size = group_size(self._num_trials, slots=self.slots)

        def fits(trial: TrialStatus) -> bool:
            return self.group(trial) == group

        members += self.waiting.take_unfinished(size - len(members), fits=fits)
        while len(members) < size and (promoted := self._promote(running, fits=fits)):
            members += promoted
        while len(members) < size and (trial := self._next_proposal()) is not None and fits(trial):
            num_left = self._num_trials - trial.number
            if len(members) >= proposals_size(size, num_left=num_left, slots=self.slots):
                break
            members += self._propose()
        return members

    def _promote(
        self, running: Mapping[int, int], *, fits: Fits = lambda _: True, is_last: bool = False
    ) -> list[TrialStatus]:
        if not self.paused:
            return []
        paused = {n: self._trials[n].num_epochs for n in self.paused}
        curves = self._scores.curves
        chosen = self._scheduler.promote(paused=paused, running=running, curves=curves, is_last=is_last)
        if chosen is None or not fits(self._trials[chosen]):
            return []
        self.paused.discard(chosen)
        return [self._trials[chosen]]

    def _propose(self) -> list[TrialStatus]:
        return [] if self._next_proposal() is None else [self.waiting.proposed.popleft()]

    def _next_proposal(self) -> TrialStatus | None:
        """The next trial to be handed out for the first time; it stays where it is."""
        if not self.waiting.proposed and (trial := self._ask()) is not None:
            self.waiting.proposed.append(trial)
        return self.waiting.proposed[0] if self.waiting.proposed else None
