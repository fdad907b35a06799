"""The search: hands out leases, takes reports, decides, and can be killed at any moment. Knows no Ray."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cluster.endings import make_ending, verdict_of_error
from cluster.leases import Decision, Lease, LeaseError, Report
from cluster.proposals import Proposals, Space
from cluster.records import Ending, EpochRecord, Records, TrialRecord
from cluster.schedulers import Scheduler
from cluster.scores import Scores
from cluster.searchers import MakeSampler
from cluster.stopping import FailureStreak, GainWatch
from cluster.trial_status import TrialStatus, rebuild_status
from cluster.verdicts import Verdict, judge, last_line, make_decision

MAX_CRASHES = 3
"""How often a trial is tried again after its worker died, if it came no further in between."""


class Done(enum.Enum):
    DONE = "no trial is left"


DONE = Done.DONE


class Search:
    """One run of a study. Every answer it gives is in the database before it is given."""

    def __init__(
        self,
        records: Records,
        *,
        space: Space,
        priors: Sequence[tuple[str, Mapping[str, Any]]] = (),
        make_sampler: MakeSampler,
        scheduler: Scheduler,
        num_trials: int,
        seed: int,
        metrics: Sequence[str],
        directions: Sequence[str] = ("maximize",),
        max_epochs: int,
        num_startup: int = 10,
        patience: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take up the study where its records end.

        `space(trial)` suggests what varies and returns the rest, or the whole configuration; it may raise
        Infeasible. `priors` are (name, configuration) of published recipes, tried first. The first metric is
        what schedulers and the ranking go by.
        """
        self.num_trials, self.max_epochs = num_trials, max_epochs
        self.failure: str | None = None
        """Why the study cannot go on, once it cannot."""
        self.stopping = False
        """No lease is handed out any more; unfinished trials stay for the next run."""
        self.scores = Scores(metrics, directions=directions)
        self._records, self._scheduler, self._seed, self._now = records, scheduler, seed, now
        self._open: dict[int, Lease] = {}
        self._streak = FailureStreak()
        history = records.load()
        self.trials = {record.number: rebuild_status(record) for record in history}
        self._watch = GainWatch(patience, self._replay(history))
        self._unfinished = deque(number for number, trial in self.trials.items() if trial.is_active)
        self._paused = {n for n, trial in self.trials.items() if trial.paused and trial.outcome is None}
        used = {record.attrs.get("prior") for record in history}
        self._priors = deque((name, config) for name, config in priors if name not in used)
        self._proposals = Proposals(
            space,
            make_sampler=make_sampler,
            seed=seed,
            directions=directions,
            num_startup=num_startup,
            history=history,
            metric=self.scores.metric,
        )
        self.stopping = self.out_of_gain

    def next_lease(self) -> Lease | Done | None:
        """The next trial to run; None while only running ones could bring more, DONE after the last."""
        lease = None if self.stopping else self._resume() or self._promote() or self._propose()
        if lease is None and not self.stopping:
            lease = self._promote(is_last=True)
        if lease is not None:
            self._open |= {leased.trial: lease for leased in lease.trials}
            return lease
        if self._open and not self.stopping:
            return None
        if not self.stopping:
            self._prune_paused()
        return DONE

    def lease_started(self, lease: Lease) -> None:
        """Its worker is up: the waiting for it does not count as the trial's time."""
        for leased in lease.trials:
            self.trials[leased.trial].started = self._now()

    def receive(self, reports: Iterable[Report], *, worker: str | None = None) -> list[Decision]:
        """Decide about each report and write reports and decisions, in one transaction, before they act."""
        decisions: list[Decision] = []
        rows: list[EpochRecord] = []
        endings: list[Ending] = []
        attrs: dict[int, dict[str, Any]] = {}
        for report in reports:
            trial = self.trials.get(report.trial)
            if trial is None or not trial.is_active or report.attempt != trial.attempt:
                decisions.append(Decision(trial=report.trial, epoch=report.epoch, action="ignored"))
                continue
            if worker is not None and trial.worker != worker:
                trial.worker = worker
                attrs.setdefault(trial.number, {})["worker"] = worker
            verdict = self._judge(report, trial)
            rows += self._note_epoch(trial, report, verdict)
            if verdict.outcome is not None:
                endings.append(self._end(trial, verdict))
            elif verdict.paused:
                attrs.setdefault(trial.number, {}).update(self._pause(trial))
            decisions.append(make_decision(trial, report.epoch, verdict))
        if rows or endings or attrs:
            self._records.record(rows, endings, attrs)
        for row in rows:
            self._proposals.report(row.trial, row.epoch, self.scores.value(row.metrics))
        self._tell(endings)
        return decisions

    def lease_ended(self, lease: Lease, error: LeaseError | None = None) -> list[Decision]:
        """The worker is done with the lease: its unfinished trials are tried again, kept, or given up."""
        decisions = []
        for leased in lease.trials:
            if self._open.get(leased.trial) is not lease:
                continue
            del self._open[leased.trial]
            trial = self.trials[leased.trial]
            if trial.is_active:
                decisions += self._give_up_or_retry(trial, error)
        return decisions

    def stop(self, failure: str | None = None) -> None:
        """Hand out nothing more; what runs may finish its epoch and is continued by the next run."""
        self.stopping = True
        self.failure = self.failure or failure

    @property
    def finished(self) -> bool:
        """Every trial of the study has its outcome."""
        ended = all(trial.outcome is not None for trial in self.trials.values())
        return ended and len(self.trials) >= self.num_trials

    @property
    def out_of_gain(self) -> bool:
        """So many trials have ended without a new best value that the study stops."""
        return self._watch.is_over

    def counts(self) -> dict[str, int]:
        """Trials by outcome; `running` are the unfinished ones."""
        counts = dict.fromkeys(("complete", "pruned", "failed", "infeasible", "running"), 0)
        for trial in list(self.trials.values()):  # a copy: the progress display asks from its own thread
            counts[trial.outcome or "running"] += 1
        return counts

    def best(self) -> tuple[int, float] | None:
        """Number and metric of the best trial so far, by its best epoch; failed ones do not count."""
        return self.scores.best(counts=lambda n: self.trials[n].outcome not in ("failed", "infeasible"))

    def best_complete(self) -> tuple[int, float] | None:
        """Number and metric of the best trial that ran to its end: only those leave their weights."""
        return self.scores.best(counts=lambda n: self.trials[n].outcome == "complete")

    def _replay(self, history: Iterable[TrialRecord]) -> list[tuple[float, bool, bool]]:
        """Take the recorded epochs in, in the order they came; when each, did it gain, did its trial end."""
        rows = sorted((row for record in history for row in record.epochs.values()), key=_arrival)
        seen = []
        for row in rows:
            trial = self.trials[row.trial]
            gained = row.decision != "failed" and self.scores.note(row.trial, row.epoch, row.metrics)
            seen.append((row.arrival, gained, trial.outcome is not None and row.epoch == trial.num_epochs))
        return seen

    def _resume(self) -> Lease | None:
        return self._hand_out(self.trials[self._unfinished.popleft()]) if self._unfinished else None

    def _promote(self, *, is_last: bool = False) -> Lease | None:
        if not self._paused:
            return None
        paused = {n: self.trials[n].num_epochs for n in self._paused}
        running = {n: self.trials[n].num_epochs for n in self._open if self.trials[n].is_active}
        chosen = self._scheduler.promote(
            paused=paused, running=running, curves=self.scores.curves, is_last=is_last
        )
        return None if chosen is None else self._hand_out(self.trials[chosen])

    def _hand_out(self, trial: TrialStatus) -> Lease:
        """A trial that has been handed out before, once more."""
        self._paused.discard(trial.number)
        lease = self._lease(trial)
        self._records.record(attrs={trial.number: trial.attempt_attrs()})
        return lease

    def _lease(self, trial: TrialStatus) -> Lease:
        rungs = self._scheduler.rungs(int(trial.config["epochs"]))
        return Lease(trials=(trial.lease(now=self._now(), checkpoint_epochs=rungs),))

    def _propose(self) -> Lease | None:
        while self._proposals.num_trials < self.num_trials and not self.stopping:
            name, prior = self._priors.popleft() if self._priors else (None, None)
            proposal = self._proposals.ask(prior)
            config = {"epochs": self.max_epochs} | proposal.config
            trial = TrialStatus(number=proposal.trial.number, config=config)
            self.trials[trial.number] = trial
            lease = self._lease(trial)
            attrs = {"config": config} | trial.attempt_attrs() | ({"prior": name} if name else {})
            ending = None if proposal.error is None else self._end(trial, verdict_of_error(proposal.error))
            self._records.add_trial(proposal.trial, attrs=attrs, ending=ending)
            if ending is None:
                return lease
            self._tell([ending])
        return None

    def _prune_paused(self) -> None:
        """Nobody comes any more whom they could be compared with."""
        endings = [self._end(self.trials[n], Verdict(outcome="pruned")) for n in sorted(self._paused)]
        self._paused.clear()
        if endings:
            self._records.record(endings=endings)
            self._tell(endings)

    def _judge(self, report: Report, trial: TrialStatus) -> Verdict:
        best = self.scores.best()
        verdict = judge(report, trial, scores=self.scores, scheduler=self._scheduler, seed=self._seed)
        if report.metrics:
            self._watch.note(gained=self.scores.best() != best, ended=verdict.outcome is not None)
            self.stopping = self.stopping or self.out_of_gain
        return verdict

    def _note_epoch(self, trial: TrialStatus, report: Report, verdict: Verdict) -> list[EpochRecord]:
        if not report.metrics:
            return []  # it failed before the epoch's end
        trial.note_epoch(report.epoch, verdict.recorded_as)
        row = EpochRecord(
            trial=trial.number,
            epoch=report.epoch,
            attempt=report.attempt,
            metrics={name: float(value) for name, value in report.metrics.items()},
            arrival=self._now(),
            decision=verdict.recorded_as,
        )
        return [row]

    def _pause(self, trial: TrialStatus) -> dict[str, Any]:
        trial.paused = True
        self._paused.add(trial.number)
        trial.end_attempt(now=self._now())
        return trial.attempt_attrs()

    def _end(self, trial: TrialStatus, verdict: Verdict) -> Ending:
        if not trial.paused:
            trial.end_attempt(now=self._now())
        failure = self._streak.note(verdict.outcome or "", verdict.reason, last_line(verdict.traceback))
        if failure is not None:
            self.stop(failure)
        return make_ending(trial, verdict, values=self.scores.best_values(trial.number), now=self._now())

    def _give_up_or_retry(self, trial: TrialStatus, error: LeaseError | None) -> list[Decision]:
        transient = error is not None and error.transient
        if self.stopping and (error is None or transient):
            return []
        if transient and trial.crashes < MAX_CRASHES:
            trial.crashes += 1
            trial.end_attempt(now=self._now())
            # At once: a driver that dies before the next attempt must not forget it.
            self._records.record(attrs={trial.number: {"crashes": trial.crashes}})
            self._unfinished.appendleft(trial.number)
            return []
        error = error or LeaseError(message="the worker ended the trial without an outcome", transient=False)
        verdict = Verdict(outcome="failed", reason=error.reason, traceback=error.message)
        ending = self._end(trial, verdict)
        self._records.record(endings=[ending])
        self._tell([ending])
        return [make_decision(trial, trial.num_epochs, verdict)]

    def _tell(self, endings: Iterable[Ending]) -> None:
        for ending in endings:
            self._proposals.tell(ending)


def _arrival(row: EpochRecord) -> float:
    return row.arrival
