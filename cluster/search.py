"""The search: hands out leases, takes reports, decides, and can be killed at any moment. Knows no Ray."""

from __future__ import annotations

import enum
import math
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from cluster.leases import Decision, Lease, LeaseError, Report
from cluster.proposals import Infeasible, Proposals, Space
from cluster.records import Ending, EpochRecord, Records
from cluster.schedulers import Decide
from cluster.scores import Scores
from cluster.searchers import MakeSampler
from cluster.trial_status import TrialStatus, rebuild_status

MAX_CRASHES = 3
"""How often a trial is tried again after its worker died."""
FAILURE_STREAK = 5
"""So many trials in a row that failed for a bug or the data stop the study: the next would fail too."""
_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.PRUNED,  # Optuna has no such state; a constraint tells the two apart
}
_DECISIONS = {None: "continue", "complete": "complete", "pruned": "stop", "failed": "failed"}


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
        scheduler: Decide,
        num_trials: int,
        seed: int,
        metric: str,
        direction: str = "maximize",
        max_epochs: int,
        num_startup: int = 10,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take up the study where its records end.

        `space(trial)` suggests what varies and returns the rest, or the whole configuration; it may raise
        Infeasible. `priors` are (name, configuration) of published recipes, tried first.
        """
        self.num_trials, self.max_epochs = num_trials, max_epochs
        self.failure: str | None = None
        """Why the study cannot go on, once it cannot."""
        self.stopping = False
        """No lease is handed out any more; unfinished trials stay for the next run."""
        self.scores = Scores(metric, direction=direction)
        self._records, self._decide, self._seed, self._now = records, scheduler, seed, now
        self._open: dict[int, Lease] = {}
        self._streak = 0
        history = records.load()
        self.trials = {record.number: rebuild_status(record) for record in history}
        for record in history:
            for epoch, row in record.epochs.items():
                self.scores.note(record.number, epoch, self.scores.value(row.metrics))
        self._unfinished = deque(number for number, trial in self.trials.items() if trial.outcome is None)
        used = {record.attrs.get("prior") for record in history}
        self._priors = deque((name, config) for name, config in priors if name not in used)
        self._proposals = Proposals(
            space,
            make_sampler=make_sampler,
            seed=seed,
            direction=direction,
            num_startup=num_startup,
            history=history,
            metric=metric,
        )

    def next_lease(self) -> Lease | Done | None:
        """The next trial to run; None while only running ones could bring more, DONE after the last."""
        lease = None if self.stopping else self._resume() or self._propose()
        if lease is not None:
            self._open |= {leased.trial: lease for leased in lease.trials}
            return lease
        return None if self._open and not self.stopping else DONE

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
            if trial is None or trial.outcome is not None or report.attempt != trial.attempt:
                decisions.append(Decision(trial=report.trial, epoch=report.epoch, action="ignored"))
                continue
            if worker is not None and trial.worker != worker:
                trial.worker = worker
                attrs[trial.number] = {"worker": worker}
            outcome, reason, text = self._judge(trial, report)
            rows += self._note_epoch(trial, report, outcome)
            if outcome is not None:
                endings.append(self._end(trial, outcome, reason=reason, traceback=text))
            decisions.append(_decision(trial, report.epoch, reason, text))
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
            if trial.outcome is None:
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

    def counts(self) -> dict[str, int]:
        """Trials by outcome; `running` are the unfinished ones."""
        counts = dict.fromkeys(("complete", "pruned", "failed", "infeasible", "running"), 0)
        for trial in list(self.trials.values()):  # a copy: the progress display asks from its own thread
            counts[trial.outcome or "running"] += 1
        return counts

    def best(self) -> tuple[int, float] | None:
        """Number and metric of the best trial so far, by its best epoch; failed ones do not count."""
        trials = list(self.trials.values())
        return self.scores.best(without={trial.number for trial in trials if trial.outcome == "failed"})

    def best_complete(self) -> tuple[int, float] | None:
        """Number and metric of the best trial that ran to its end: only those leave their weights."""
        trials = list(self.trials.values())
        return self.scores.best(without={trial.number for trial in trials if trial.outcome != "complete"})

    def _resume(self) -> Lease | None:
        if not self._unfinished:
            return None
        trial = self.trials[self._unfinished.popleft()]
        lease = Lease(trials=(trial.lease(now=self._now()),))
        self._records.record(attrs={trial.number: trial.attempt_attrs()})
        return lease

    def _propose(self) -> Lease | None:
        while self._proposals.num_trials < self.num_trials and not self.stopping:
            name, prior = self._priors.popleft() if self._priors else (None, None)
            proposal = self._proposals.ask(prior)
            config = {"epochs": self.max_epochs} | proposal.config
            trial = TrialStatus(number=proposal.trial.number, config=config)
            self.trials[trial.number] = trial
            lease = Lease(trials=(trial.lease(now=self._now()),))
            attrs = {"config": config} | trial.attempt_attrs() | ({"prior": name} if name else {})
            ending = None if proposal.error is None else self._end_proposal(trial, proposal.error)
            self._records.add_trial(proposal.trial, attrs=attrs, ending=ending)
            if ending is None:
                return lease
            self._tell([ending])
        return None

    def _judge(self, trial: TrialStatus, report: Report) -> tuple[str | None, str | None, str | None]:
        """Outcome (None: it goes on), reason and traceback."""
        if report.outcome == "failed":
            return "failed", report.reason or "bug", report.traceback
        if self.scores.metric not in report.metrics:
            return "failed", "bug", f"no {self.scores.metric} in the report of epoch {report.epoch}"
        value = self.scores.value(report.metrics)
        if not math.isfinite(value):
            return "failed", "diverged", None
        self.scores.note(trial.number, report.epoch, value)
        if report.outcome == "complete":
            return "complete", None, None
        if trial.decisions.get(report.epoch) == "continue":
            return None, None, None  # a replayed epoch: later results must not change what was decided
        action = self._decide(
            trial=trial.number,
            epoch=report.epoch,
            curves=self.scores.curves,
            max_epochs=int(trial.config["epochs"]),
            seed=self._seed,
        )
        return ("pruned" if action == "stop" else None), None, None

    def _note_epoch(self, trial: TrialStatus, report: Report, outcome: str | None) -> list[EpochRecord]:
        if not report.metrics:
            return []  # it failed before the epoch's end
        trial.decisions[report.epoch] = _DECISIONS[outcome]
        row = EpochRecord(
            trial=trial.number,
            epoch=report.epoch,
            attempt=report.attempt,
            metrics={name: float(value) for name, value in report.metrics.items()},
            arrival=self._now(),
            decision=_DECISIONS[outcome],
        )
        return [row]

    def _end(self, trial: TrialStatus, outcome: str, *, reason: str | None, traceback: str | None) -> Ending:
        trial.outcome = outcome
        trial.end_attempt(now=self._now())
        self._streak = self._streak + 1 if outcome == "failed" and reason in ("bug", "data") else 0
        if self._streak >= FAILURE_STREAK:
            last = _last_line(traceback) or ""
            self.stop(f"the last {self._streak} trials failed, so would the next: {reason}: {last}")
        attrs: dict[str, Any] = {"outcome": outcome, "reason": reason, "traceback": traceback}
        attrs |= {"worker": trial.worker, "attempts": trial.attempt, "seconds": round(trial.seconds, 3)}
        return Ending(
            trial=trial.number,
            state=_STATES[outcome],
            value=None if outcome == "failed" else self.scores.best_value(trial.number),
            attrs={name: value for name, value in attrs.items() if value is not None},
        )

    def _end_proposal(self, trial: TrialStatus, error: Exception) -> Ending:
        if isinstance(error, Infeasible):
            return self._end(trial, "infeasible", reason=str(error), traceback=None)
        text = "".join(tracebacks.format_exception(error))
        return self._end(trial, "failed", reason="bug", traceback=text)

    def _give_up_or_retry(self, trial: TrialStatus, error: LeaseError | None) -> list[Decision]:
        transient = error is not None and error.transient
        if self.stopping and (error is None or transient):
            return []
        if transient and trial.crashes < MAX_CRASHES:
            trial.crashes += 1
            trial.end_attempt(now=self._now())
            self._unfinished.appendleft(trial.number)
            return []
        error = error or LeaseError(message="the worker ended the trial without an outcome", transient=False)
        ending = self._end(trial, "failed", reason=error.reason, traceback=error.message)
        self._records.record(endings=[ending])
        self._tell([ending])
        return [_decision(trial, trial.num_epochs, error.reason, error.message)]

    def _tell(self, endings: Iterable[Ending]) -> None:
        for ending in endings:
            self._proposals.tell(ending.trial, ending.state, ending.value)


def _decision(trial: TrialStatus, epoch: int, reason: str | None, traceback: str | None) -> Decision:
    return Decision(
        trial=trial.number,
        epoch=epoch,
        action="continue" if trial.outcome is None else "stop",
        outcome=trial.outcome,
        reason=reason,
        detail=_last_line(traceback),
    )


def _last_line(text: str | None) -> str | None:
    return text.strip().rpartition("\n")[2] if text else None
