"""Chooses the trials of a lease: the next in turn, and those that may train beside it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from cluster.schedulers import Scheduler
from cluster.search.scores import Scores
from cluster.search.time_left import MOST_AHEAD
from cluster.search.trial_status import TrialStatus
from contract.messages import Lease, LeasedTrial

GroupOf = Callable[[Mapping[str, Any]], Hashable | None]
"""Key of a configuration: trials with equal keys may train side by side; None means that it trains alone."""

MAX_GROUP_SIZE = 16
"""Most trials of a lease; beyond, handing them out costs nothing that could be saved."""
ROUNDS = 4
"""Least number of leases for each slot, one after the other."""
MAX_CRASHES_TOGETHER = 1
"""Number of crashes after which trials of one lease are tried again together; after more, each runs alone."""


def group_size(num_trials: int, *, slots: int) -> int:
    """Most trials of a lease: so few that every slot takes at least ROUNDS leases, one after the other.

    So all slots stay busy, and the sampler learns from the first leases before it proposes for the later.
    """
    return max(1, min(MAX_GROUP_SIZE, num_trials // (ROUNDS * slots)))


def proposals_size(size: int, *, num_left: int, slots: int) -> int:
    """Most trials of a lease with newly proposed ones: fewer towards the end, so that all slots end together.

    A single slot waits for no other, and keeps its size.
    """
    return size if slots == 1 else max(1, min(size, num_left // (2 * slots)))


class Waiting:
    """The unfinished trials that no worker has, in the order in which they are handed out.

    The order follows from the records alone, so that a continued study goes on with it.
    """

    def __init__(self, trials: Iterable[TrialStatus]) -> None:
        active = sorted((trial for trial in trials if trial.is_active), key=_number)
        self._cut_off: deque[list[TrialStatus]] = deque()
        self._unfinished = [trial for trial in active if trial.attempt and not trial.is_cut_off]
        self.proposed = deque(trial for trial in active if not trial.attempt)
        """Never handed out so far."""
        leases = defaultdict(list)
        for trial in active:
            if trial.is_cut_off:
                leases[trial.lease_number].append(trial)
        for _, members in sorted(leases.items(), key=lambda item: item[0] or 0):
            self.retry(members)

    def retry(self, members: list[TrialStatus]) -> None:
        """Put the trials of a lease that its worker did not finish before all others.

        They are tried together once more, because a lost node is likelier than a trial that kills its worker;
        then each alone, so that such a trial harms no other.
        """
        together = [trial for trial in members if trial.crashes <= MAX_CRASHES_TOGETHER]
        self._cut_off += [[trial] for trial in members if trial.crashes > MAX_CRASHES_TOGETHER]
        if together:
            self._cut_off.append(together)

    def put_back(self, trial: TrialStatus) -> None:
        """Queue a trial that has come as far as its lease went and goes on."""
        self._unfinished = sorted([*self._unfinished, trial], key=_number)

    def take_cut_off(self, *, fits: Callable[[TrialStatus], bool] = lambda _: True) -> list[TrialStatus]:
        """The trials of the next unfinished lease whose trials all fit; empty if there is none."""
        for members in self._cut_off:
            if all(fits(trial) for trial in members):
                self._cut_off.remove(members)
                return members
        return []

    def take_proposed(self, trial: TrialStatus) -> list[TrialStatus]:
        """Take a trial that was never handed out so far from wherever it stands in the queue."""
        self.proposed.remove(trial)
        return [trial]

    def take_unfinished(
        self, limit: int, *, fits: Callable[[TrialStatus], bool] = lambda _: True
    ) -> list[TrialStatus]:
        """Up to `limit` trials that have epochs and go on, the lowest numbers first."""
        taken = [trial for trial in self._unfinished if fits(trial)][:limit]
        self._unfinished = [trial for trial in self._unfinished if trial not in taken]
        return taken


def _number(trial: TrialStatus) -> int:
    return trial.number


Fits = Callable[[TrialStatus], bool]


class LeaseChoice:
    """Chooses leases from the records only, so that a killed search goes on with those it would have made."""

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
        """`trials` is the search's own mapping; `ask` adds a trial to it, or returns None after the last."""
        self.slots = 1
        """Leases that run at once."""
        self.waiting = Waiting(trials.values())
        self.paused = {n for n, trial in trials.items() if trial.paused and trial.outcome is None}
        self._trials, self._scheduler, self._scores = trials, scheduler, scores
        self._group_of, self._num_trials, self._ask = group_of, num_trials, ask
        self._num_leases = max((trial.lease_number or 0 for trial in trials.values()), default=0)

    def choose(self, running: Mapping[int, int], *, fits: Fits = lambda _: True) -> list[TrialStatus]:
        """The trials of an unfinished lease; or else the next trial in turn and those that may join it.

        Args:
            running: number of epochs that each running trial has.
            fits: says which trials can end in time; the others wait.
        """
        if members := self.waiting.take_cut_off(fits=fits):
            return members
        first = (
            self.waiting.take_unfinished(1, fits=fits)
            or self._promote(running, fits=fits)
            or self._propose_fitting(fits)
        )
        group = self.group(first[0]) if first else None
        return first if group is None else self._fill(first, group, running)

    def choose_last(self, running: Mapping[int, int], *, fits: Fits = lambda _: True) -> list[TrialStatus]:
        """A paused trial to promote once no further trial will be proposed; empty if there is none."""
        return self._promote(running, fits=fits, is_last=True)

    def lease(self, members: Sequence[TrialStatus], *, now: float) -> Lease:
        """Begin the members' next attempts."""
        self._num_leases += 1
        return Lease(trials=tuple(self._lease(trial, now=now) for trial in members))

    def group(self, trial: TrialStatus) -> Hashable | None:
        """Key of the trials that may share its lease; None if it must run alone, as without rungs."""
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
        checkpoints = rungs if self._scheduler.pauses else ends
        return trial.lease(now=now, checkpoint_epochs=checkpoints, judged_epochs=rungs)

    def _rungs(self, trial: TrialStatus) -> tuple[int, ...] | None:
        return self._scheduler.rungs(self._scores.curves.shares(trial.number))

    def _fill(
        self, members: list[TrialStatus], group: Hashable, running: Mapping[int, int]
    ) -> list[TrialStatus]:
        """Add unfinished, promoted and new trials of the group: an order that a continued run repeats."""
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

    def _propose_fitting(self, fits: Fits) -> list[TrialStatus]:
        """The first trial in turn that fits; a few that do not may wait before it, for another run."""
        for known in self.waiting.proposed:
            if fits(known):
                return self.waiting.take_proposed(known)
        while len(self.waiting.proposed) <= MOST_AHEAD and (trial := self._ask()) is not None:
            self.waiting.proposed.append(trial)
            if fits(trial):
                return self.waiting.take_proposed(trial)
        return []

    def _next_proposal(self) -> TrialStatus | None:
        """The next trial to be handed out for the first time; it stays in the queue."""
        if not self.waiting.proposed and (trial := self._ask()) is not None:
            self.waiting.proposed.append(trial)
        return self.waiting.proposed[0] if self.waiting.proposed else None
