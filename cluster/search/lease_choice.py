"""The choice of a lease's trials: one that waits, and those that may train beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from cluster.schedulers import Scheduler
from cluster.search.grouping import GroupOf, Waiting, group_size, proposals_size
from cluster.search.scores import Scores
from cluster.search.trial_status import TrialStatus
from contract.messages import Lease, LeasedTrial

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
