"""The search: hands out leases, takes reports, decides, and can be killed at any moment. Knows no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.search.lease_source import DONE, Done
from cluster.search.leasing import LeaseChoice
from cluster.search.outcomes import (
    Verdict,
    judge,
    last_line,
    make_decision,
    make_ending,
    make_row,
    verdict_of_error,
)
from cluster.search.scores import Scores
from cluster.search.setup import SearchSetup, make_probes, make_proposals, not_yet_tried
from cluster.search.stopping import FailureStreak, GainWatch, replay
from cluster.search.time_left import TimeLeft
from cluster.search.trial_status import TrialStatus, charge_together, rebuild_statuses
from cluster.study.records import Ending, EpochRecord, NewTrial, Records
from contract.lease_errors import LeaseError
from contract.messages import PAUSED, Action, Decision, Lease, Outcome, Report, State
from contract.probes import ProbeReport
from contract.trial_config import kept_epoch

MAX_CRASHES = 3
"""How often a trial is tried again after its worker died, unless it completed an epoch in between."""


SPARE_TIME = 4.0
"""The paused trials go on once less time is left than the longest of them needs, times this: there may be
several. In replays on one slot 4 was as good as 8, and better than 1.5 by 0.04 points."""


class Search:
    """One run of a study, as a LeaseSource. Whatever it answers is in the database before."""

    noun = "trial"

    def __init__(self, records: Records, setup: SearchSetup, *, now: Callable[[], float] = time.time) -> None:
        """Go on where the records end; `now` gives unix time."""
        self.num_trials, self.max_epochs = setup.num_trials, setup.max_epochs
        self.out_of_time = False
        """The search has ended because nothing that is left can end within the time budget."""
        self.failure: str | None = None
        """Why the study cannot go on, once it cannot."""

        self.scores = Scores(
            setup.metrics,
            directions=setup.directions,
            shares_of=lambda number: setup.shares_of(self.trials[number].config),
            rule_of=lambda number: kept_epoch(self.trials[number].config),
            val_labels=setup.val_labels,
            val_groups=setup.val_groups,
        )
        self._records, self._scheduler, self._seed, self._now = records, setup.scheduler, setup.seed, now
        self._open: dict[int, Lease] = {}
        self._time = TimeLeft(setup.expected_seconds, now=now)
        self._left: set[int] = set()
        """Trials that gave their worker back because their next epoch could not end in time."""
        self._streak = FailureStreak()
        history = records.load()
        self.trials = rebuild_statuses(history)
        self._watch = GainWatch(setup.patience, replay(history, self.scores))
        self._last_arrival = max(
            (row.arrival for record in history for row in record.epochs.values()), default=-math.inf
        )
        self._choice = LeaseChoice(
            self.trials,
            scheduler=setup.scheduler,
            scores=self.scores,
            group_of=setup.group_of,
            num_trials=setup.num_trials,
            ask=self._ask,
        )
        self._new: list[NewTrial] = []
        """Proposed, but not yet in the database: a run after a kill proposes them again."""

        self._given = not_yet_tried(setup, history)
        self.probes = make_probes(setup, records, self.scores)
        self._proposals = make_proposals(setup, history, self.probes.taught)
        self.stopping = self.out_of_gain
        """No lease is handed out any more; the next run goes on with unfinished trials."""

    def next_lease(self) -> Lease | Done | None:
        """The next lease; None while it depends on trials that still run, DONE after the last."""
        if self._is_probing and not self.stopping and (probes := self.probes.lease()):
            return Lease(trials=(), probes=probes)
        members = self._choose_members()
        lease = self._hand_out(members) if members or self._new else None
        if lease is not None and lease.trials:
            return lease
        if (self._open or self.probes.is_running) and not self.stopping:
            return None
        if not self.stopping and self._time_is_short():
            self.out_of_time = True
            self.stop()
        if not self.stopping:  # no trial will reach the rungs of the paused ones any more
            self.prune_paused(self.paused)
        return DONE

    @property
    def ends_at(self) -> float:
        """Unix time at which the time budget ends; infinite without one."""
        return self._time.ends_at

    @ends_at.setter
    def ends_at(self, moment: float) -> None:
        self._time.ends_at = moment

    def lease_started(self, lease: Lease) -> None:
        """Start the trials' time, now that their worker is up."""
        for leased in lease.trials:
            trial = self.trials[leased.trial]
            trial.started = trial.charged = self._now()

    def receive(self, reports: Iterable[Report], *, worker: str | None = None) -> list[Decision]:
        """Decide about each report; reports and decisions are in the database before they take effect."""
        reports = list(reports)
        self._charge(self._open.get(reports[0].trial) if reports else None)
        decisions: list[Decision] = []
        rows: list[EpochRecord] = []
        endings: list[Ending] = []
        attrs: dict[int, dict[str, Any]] = {}
        for report in reports:
            trial = self.trials.get(report.trial)
            if trial is None or not trial.is_active or report.attempt != trial.attempt:
                decisions.append(Decision(trial=report.trial, epoch=report.epoch, action=Action.IGNORED))
                continue
            if worker is not None and trial.worker != worker:
                trial.worker = worker
                attrs.setdefault(trial.number, {})["worker"] = worker
            verdict = self._judge(report, trial)
            if report.metrics:  # otherwise the trial ended before the end of an epoch
                self._note_pace(trial)
                arrival = trial.note_epoch(report.epoch, verdict.recorded_as, arrival=self._next_arrival())
                rows.append(make_row(report, verdict, arrival=arrival))
            if verdict.outcome is not None:
                endings.append(self._end(trial, verdict))
            elif verdict.paused:
                attrs.setdefault(trial.number, {}).update(self._pause(trial))
            elif not self._time.holds_epoch(trial) and self.best_complete():
                self._left.add(trial.number)
            decisions.append(make_decision(trial, report.epoch, verdict))
        self._records.record(rows, endings, attrs)
        for row in rows:
            self._proposals.report(row.trial, row.epoch, self.scores.value(row.metrics))
        self._tell(endings)
        return decisions

    def receive_probes(self, reports: Sequence[ProbeReport], *, worker: str | None = None) -> None:
        """Record the probes that ended, before anything is proposed from what they taught."""
        self._records.record_probes(self.probes.note(reports, worker=worker, arrival=self._now()))

    def goes_on(self, lease: Lease) -> bool:
        """True while a trial of the lease has not ended or paused, or a probe has no result."""
        numbers = (leased.trial for leased in lease.trials)
        active = any(self.trials[number].is_active and number not in self._left for number in numbers)
        return active or self.probes.has_any(lease.probes)

    def lease_ended(self, lease: Lease, error: LeaseError | None = None) -> list[Decision]:
        """The worker has ended: retry, queue or give up what has no outcome, trials as well as probes."""
        if lease.probes and not self.stopping:
            self.receive_probes(self.probes.lost(lease.probes, error))
        self.probes.put_back(lease.probes)
        self._charge(lease)
        decisions: list[Decision] = []
        retried = []
        for leased in lease.trials:
            if self._open.get(leased.trial) is not lease:
                continue
            del self._open[leased.trial]
            trial = self.trials[leased.trial]
            if not trial.is_active or trial.number in self._left:
                continue
            if trial.is_at_lease_end:
                self._choice.waiting.put_back(trial)
            elif self._is_retried(trial, error):
                retried.append(trial)
            else:
                decisions += self._give_up(trial, error)
        # Written at once, so that a driver that dies before the next attempt does not forget the crash.
        self._records.record(attrs={trial.number: {"crashes": trial.crashes} for trial in retried})
        self._choice.waiting.retry(retried)
        return decisions

    @property
    def paused(self) -> list[int]:
        """Numbers of the trials that wait at a rung."""
        return sorted(self._choice.paused)

    def prune_paused(self, numbers: Sequence[int], *, why: str | None = None) -> None:
        """End paused trials as pruned; without `why` the scheduler says why they were not promoted."""
        endings = []
        for number in numbers:
            self._choice.paused.discard(number)
            trial, curves = self.trials[number], self.scores.curves
            told = why or self._scheduler.explain(trial=number, epoch=trial.num_epochs, curves=curves)
            verdict = Verdict(outcome=Outcome.PRUNED, why=PAUSED + told)
            endings.append(self._end(trial, verdict))
        self._records.record(endings=endings)
        self._tell(endings)

    def stop(self, failure: str | None = None) -> None:
        """Hand out nothing more; running trials may finish their epoch, and the next run continues them."""
        self.stopping = True
        self.failure = self.failure or failure

    def set_slots(self, slots: int) -> None:
        """Set the number of leases that run at once, which limits how many trials a lease may hold."""
        self._choice.slots = slots

    @property
    def finished(self) -> bool:
        """Every trial of the study has its outcome, and none is left to propose."""
        ended = all(trial.outcome is not None for trial in self.trials.values())
        return ended and (len(self.trials) >= self.num_trials or self.used_up)

    @property
    def used_up(self) -> bool:
        """The space has finitely many configurations, and each of them is a trial of the study."""
        return not self._given and self._proposals.used_up

    @property
    def out_of_gain(self) -> bool:
        """--patience is used up."""
        return self._watch.is_over

    def counts(self) -> dict[State, int]:
        """Number of trials by state; those without an outcome count as running."""
        counts: dict[State, int] = dict.fromkeys(State, 0)
        del counts[State.WAITING]
        for trial in list(self.trials.values()):  # a copy: the progress display asks from its own thread
            counts[State.of(trial.outcome)] += 1
        return counts

    @property
    def metric(self) -> str:
        """The metric that ranks trials."""
        return self.scores.metric

    @property
    def is_probing(self) -> bool:
        """Some probe has no result yet."""
        return self.probes.is_open

    @property
    def num_probes(self) -> tuple[int, int]:
        """Number of probes that are done, and of all."""
        return self.probes.num_done, self.probes.total

    def kept_value(self, number: int) -> float | None:
        """The first metric at a trial's kept epoch so far; None without one."""
        return self.scores.kept_value(number)

    def num_epochs(self, number: int) -> int:
        """Number of epochs that a trial has."""
        return self.trials[number].num_epochs

    def has_ended(self, number: int) -> bool:
        """The trial has its outcome."""
        return self.trials[number].outcome is not None

    def best(self) -> tuple[int, float] | None:
        """Number and first metric of the best trial by its kept epoch, without failed and infeasible ones."""
        return self.scores.best(counts=lambda n: State.of(self.trials[n].outcome).is_ranked)

    def best_complete(self) -> tuple[int, float] | None:
        """Number and first metric of the best complete trial; only complete trials leave weights."""
        return self.scores.best(counts=lambda n: self.trials[n].outcome is Outcome.COMPLETE)

    @property
    def _is_probing(self) -> bool:
        """Some probe has no result yet, and a proposal will follow that can learn from it."""
        num_known = self._proposals.num_trials + len(self._given)
        return self.probes.is_open and num_known < self.num_trials

    def _choose_members(self) -> list[TrialStatus]:
        if self.stopping:
            return []
        running = {n: self.trials[n].num_epochs for n in self._open if self.trials[n].is_active}
        members = self._choose_in_time(running) or self._choice.choose(running, fits=self._fits)
        if not members and not self.stopping and not self._is_probing:
            members = self._choice.choose_last(running, fits=self._fits)
        return [] if self.stopping else members  # a new proposal may have failed once too often

    def _choose_in_time(self, running: Mapping[int, int]) -> list[TrialStatus]:
        """Once the time budget just holds the rest of every paused trial, the next that is worth it."""
        left = self._time.seconds
        needed = [self.trials[number].seconds_to_end for number in self._choice.paused]
        if not needed or left > SPARE_TIME * max(needed):
            return []
        return self._choice.choose_last(running, fits=lambda trial: trial.seconds_to_end <= left)

    def _fits(self, trial: TrialStatus) -> bool:
        """The trial can end in time; or nothing else runs and no trial is complete, so that it may try."""
        return self._time.fits(trial) or not (self._open or self.best_complete())

    def _time_is_short(self) -> bool:
        """Something is left that would run, were there more time."""
        waiting = [number for number, trial in self.trials.items() if trial.is_active]
        kept_back = [number for number in self._choice.paused if not self._time.fits(self.trials[number])]
        return self._time.is_limited and bool(waiting or kept_back)

    def _note_pace(self, trial: TrialStatus) -> None:
        """Measure the epoch that ends now, of a trial that has its worker for itself."""
        if len(self._open[trial.number].trials) == 1:
            since = max(trial.started, max(trial.arrivals.values(), default=0.0))
            self._time.note_epoch(trial, seconds=max(0.0, self._now() - since))

    def _hand_out(self, members: Sequence[TrialStatus]) -> Lease:
        """Write the next attempts of all members, and all new proposals, in one transaction."""
        lease = self._choice.lease(sorted(members, key=lambda trial: trial.number), now=self._now())
        attrs = {trial.number: trial.attempt_attrs() for trial in members}
        new = [replace(one, attrs={**one.attrs, **attrs.pop(one.trial.number, {})}) for one in self._new]
        self._new = []
        self._records.record(new=new, attrs=attrs)
        self._open |= {leased.trial: lease for leased in lease.trials}
        return lease

    def _ask(self) -> TrialStatus | None:
        """The next proposal that can run; None after the last."""
        while self._proposals.num_trials < self.num_trials and not self.stopping:
            if self._is_probing and not self._given:
                return None  # what the probes teach is not known yet
            trial = self._propose()
            if trial is None or trial.outcome is None:
                return trial
        return None

    def _propose(self) -> TrialStatus | None:
        name, given, is_recipe = self._given.popleft() if self._given else (None, None, False)
        proposal = self._proposals.ask(given)
        if proposal is None:
            return None
        config, now = proposal.config, self._now()
        trial = TrialStatus(
            number=proposal.trial.number, config=config, is_recipe=is_recipe, started=now, charged=now
        )
        self.trials[trial.number] = trial
        ending = None if proposal.error is None else self._end(trial, verdict_of_error(proposal.error))
        attrs = {"config": config} | trial.attempt_attrs()
        attrs |= {"recipe": name, "is_recipe": is_recipe} if name else {}
        self._new.append(NewTrial(trial=proposal.trial, attrs=attrs, ending=ending))
        if ending is not None:
            self._tell([ending])
        return trial

    def _judge(self, report: Report, trial: TrialStatus) -> Verdict:
        verdict = judge(report, trial, scores=self.scores, scheduler=self._scheduler, seed=self._seed)
        if report.metrics:
            self._watch.note(gained=verdict.gained, ended=verdict.outcome is not None)
            self.stopping = self.stopping or self.out_of_gain
        return verdict

    def _next_arrival(self) -> float:
        """Unix time, but later than the last report's, so that records replay in their order of arrival."""
        self._last_arrival = max(self._now(), math.nextafter(self._last_arrival, math.inf))
        return self._last_arrival

    def _pause(self, trial: TrialStatus) -> dict[str, Any]:
        trial.paused = True
        self._choice.paused.add(trial.number)
        trial.charge(now=self._now())
        return trial.attempt_attrs()

    def _end(self, trial: TrialStatus, verdict: Verdict) -> Ending:
        if not trial.paused:
            trial.charge(now=self._now())
        assert verdict.outcome is not None
        failure = self._streak.note(verdict.outcome, verdict.reason, last_line(verdict.traceback))
        if failure is not None:
            self.stop(failure)
        return make_ending(trial, verdict, values=self.scores.kept_values(trial.number), now=self._now())

    def _is_retried(self, trial: TrialStatus, error: LeaseError | None) -> bool:
        """Whether a trial without an outcome is tried again, in this run or the next; counts the crash."""
        transient = error is not None and error.transient
        if self.stopping and (error is None or transient):
            return True
        if not transient or trial.crashes >= MAX_CRASHES:
            return False
        trial.crashes += 1
        return True

    def _give_up(self, trial: TrialStatus, error: LeaseError | None) -> list[Decision]:
        error = error or LeaseError(message="the worker ended the trial without an outcome", transient=False)
        verdict = Verdict(outcome=Outcome.FAILED, reason=error.reason, traceback=error.message)
        ending = self._end(trial, verdict)
        self._records.record(endings=[ending])
        self._tell([ending])
        return [make_decision(trial, trial.num_epochs, verdict)]

    def _charge(self, lease: Lease | None) -> None:
        leased = (self.trials[number] for number, other in self._open.items() if other is lease)
        charge_together([trial for trial in leased if trial.is_active], now=self._now())

    def _tell(self, endings: Iterable[Ending]) -> None:
        for ending in endings:
            self._proposals.tell(ending)
