"""Final trainings: planned from the records, handed out as leases, and continued after any accident."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.search.lease_source import DONE, Done
from cluster.search.outcomes import last_line
from cluster.search.search import MAX_CRASHES
from cluster.study.final_records import FinalRecord
from cluster.study.records import Records
from contract.finals import FinalTraining
from contract.lease_errors import LeaseError
from contract.messages import Action, Decision, Lease, LeasedTrial, Outcome, Reason, Report, State
from contract.metrics import Direction, epoch_merit
from contract.probes import ProbeReport
from contract.trial_config import kept_epoch

OF_VALIDATION = "val_"
"""Begins the names of metrics of validation images."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A trial that final trainings are made of."""

    trial: int
    config: Mapping[str, Any]
    kept_epoch: int
    """Number of epochs that it had trained when its kept epoch ended."""

    val_losses: tuple[float, ...] = ()
    """Its validation losses, one an epoch; needed only for `schedule="plateau"`."""


def plan_finals(
    existing: Sequence[FinalRecord],
    *,
    chosen: Sequence[Chosen],
    seeds: int = 0,
    folds: int = 0,
    refit: bool = False,
) -> list[FinalRecord]:
    """List the final trainings that are asked for and have not ended: begun ones, and new ones numbered on.

    Args:
        existing: those that the study has.
        seeds: repetitions of each chosen trial with other draws, those that exist included.
        folds: folds of train and validation images; 0 = none.
        refit: train each on train and validation images together.
    """
    known = {record.training.key: record for record in existing}
    number = 1 + max((record.final for record in existing), default=-1)
    planned = []
    for one in chosen:
        for training in _trainings_of(one, seeds=seeds, folds=folds, refit=refit):
            record = known.get(training.key)
            if record is None:
                record = FinalRecord(final=number, training=training, config=dict(one.config))
                known[training.key], number = record, number + 1
            if not record.state.has_ended and record not in planned:
                planned.append(record)
    return planned


def _trainings_of(one: Chosen, *, seeds: int, folds: int, refit: bool) -> list[FinalTraining]:
    losses = one.val_losses if one.config.get("schedule") == "plateau" else ()
    trainings = [FinalTraining.seed(one.trial, repetition) for repetition in range(1, seeds + 1)]
    trainings += [
        FinalTraining.fold_of(one.trial, fold, folds, epochs=one.kept_epoch, val_losses=losses)
        for fold in range(folds)
    ]
    return trainings + [FinalTraining.refit(one.trial, epochs=one.kept_epoch, val_losses=losses)] * refit


class FinalTrainings:
    """The final trainings of one run, as a LeaseSource: each runs alone to its end, none is stopped early."""

    noun = "final"
    out_of_gain = out_of_time = False
    is_probing = False
    num_probes = (0, 0)

    def __init__(
        self,
        records: Records,
        planned: Sequence[FinalRecord],
        *,
        metric: str,
        direction: Direction,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Record what is planned, as by `plan_finals`; `now` gives unix time."""
        self.metric, self.num_trials = metric, len(planned)
        self.ends_at = math.inf
        self.failure: str | None = None
        self.stopping = False
        self.finals = {record.final: record for record in planned}
        self._records, self._now, self._maximize = records, now, direction is Direction.MAXIMIZE
        self._waiting = deque(sorted(self.finals))
        self._open: dict[int, Lease] = {}
        self._charged: dict[int, float] = {}
        """Unix time up to which the seconds of each running one are accounted for."""
        records.record_finals([record for record in planned if not record.attempt])

    def next_lease(self) -> Lease | Done | None:
        """The next training; None while it depends on those that run, DONE after the last."""
        if self._waiting and not self.stopping:
            return self._hand_out(self._waiting.popleft())
        return None if self._open and not self.stopping else DONE

    def lease_started(self, lease: Lease) -> None:
        """Start the training's time, now that its worker is up."""
        for leased in lease.trials:
            self._charged[leased.trial] = self._now()

    def receive(self, reports: Iterable[Report], *, worker: str | None = None) -> list[Decision]:
        """Take each report into its row, and say whether the training goes on."""
        decisions, changed = [], {}
        for report in reports:
            record = self.finals.get(report.trial)
            if record is None or record.state.has_ended or report.attempt != record.attempt:
                decisions.append(Decision(trial=report.trial, epoch=report.epoch, action=Action.IGNORED))
                continue
            record = self._note(record, report, worker or record.worker)
            self.finals[record.final] = changed[record.final] = record
            decisions.append(_decide(record, report))
        self._records.record_finals(list(changed.values()))
        return decisions

    def receive_probes(self, reports: Sequence[ProbeReport], *, worker: str | None = None) -> None:
        """Do nothing: there are no probes."""

    def goes_on(self, lease: Lease) -> bool:
        """True while the training of the lease has not ended."""
        return any(not self.has_ended(leased.trial) for leased in lease.trials)

    def lease_ended(self, lease: Lease, error: LeaseError | None = None) -> list[Decision]:
        """The worker has ended: try again, or give up, what has no outcome."""
        decisions: list[Decision] = []
        for leased in lease.trials:
            if self._open.get(leased.trial) is not lease:
                continue
            del self._open[leased.trial]
            if self.has_ended(leased.trial):
                continue
            record = self._charge(self.finals[leased.trial])
            if self._is_retried(record, error):
                is_crash = error is not None and not self.stopping
                record = replace(record, crashes=record.crashes + is_crash)
                self._waiting.appendleft(record.final)
            else:
                record, decision = _give_up(record, error)
                decisions.append(decision)
            self.finals[record.final] = record
            self._records.record_finals([record])
        return decisions

    def stop(self, failure: str | None = None) -> None:
        """Hand out nothing more; the next run goes on with what has not ended."""
        self.stopping = True
        self.failure = self.failure or failure

    def set_slots(self, slots: int) -> None:
        """Do nothing: a lease holds one training, however many run at once."""

    @property
    def finished(self) -> bool:
        return all(record.state.has_ended for record in self.finals.values())

    def counts(self) -> dict[State, int]:
        """Number of final trainings by state; those without an outcome count as running."""
        counts: dict[State, int] = dict.fromkeys(State, 0)
        del counts[State.WAITING]
        for record in list(self.finals.values()):  # a copy: the progress display asks from its own thread
            counts[record.state if record.state.has_ended else State.RUNNING] += 1
        return counts

    def best(self) -> tuple[int, float] | None:
        """None: final trainings do not compete, and some are of other images."""
        return None

    def kept_value(self, number: int) -> float | None:
        """The metric at the kept epoch so far; None of a refit, which has no images to be judged by."""
        return (self.finals[number].metrics or {}).get(self.metric)

    def num_epochs(self, number: int) -> int:
        """Number of epochs that a training has."""
        return self.finals[number].epochs

    def has_ended(self, number: int) -> bool:
        """The training has its outcome."""
        return self.finals[number].state.has_ended

    def _hand_out(self, number: int) -> Lease:
        """Write the next attempt, which fences off older ones, and hand it out."""
        before = self.finals[number]
        record = replace(before, attempt=before.attempt + 1, state=State.RUNNING)
        self.finals[number] = record
        self._charged[number] = self._now()
        self._records.record_finals([record])
        leased = LeasedTrial(
            trial=number,
            attempt=record.attempt,
            config=record.config,
            done_epochs=record.epochs,
            final=record.training,
        )
        self._open[number] = Lease(trials=(leased,))
        return self._open[number]

    def _note(self, record: FinalRecord, report: Report, worker: str | None) -> FinalRecord:
        record = replace(self._charge(record), worker=worker, arrival=self._now())
        if report.metrics:
            record = self._note_epoch(record, report)
        if report.outcome is None or record.state.has_ended:
            return record
        error = report.traceback or report.limit
        return replace(record, state=State.of(report.outcome), error=error)

    def _note_epoch(self, record: FinalRecord, report: Report) -> FinalRecord:
        """Keep the epoch's metrics, if the training's own rule puts it above those before."""
        value = report.metrics.get(self.metric, math.nan)
        crashes = record.crashes if report.epoch <= record.epochs else 0
        record = replace(record, epochs=max(record.epochs, report.epoch), crashes=crashes)
        if not math.isfinite(value):
            text = f"{Reason.DIVERGED}: {self.metric} is {value} after epoch {report.epoch}"
            return replace(record, state=State.FAILED, error=text)
        rule = "last" if record.training.fixed_epochs else kept_epoch(record.config)
        before = record.metrics or {}
        is_first = record.kept_at_epoch is None or not record.training.kind.is_out_of_sample
        if not is_first and self._merit(rule, report.epoch, report.metrics) <= self._merit(
            rule, record.kept_at_epoch or 0, before
        ):
            return record
        metrics = {
            name: float(value)
            for name, value in report.metrics.items()
            if record.training.kind.is_out_of_sample or not name.startswith(OF_VALIDATION)
        }
        return replace(record, kept_at_epoch=report.epoch, metrics=metrics)

    def _merit(self, rule: str, epoch: int, metrics: Mapping[str, float]) -> float:
        value, loss = metrics.get(self.metric, math.nan), metrics.get("val_loss")
        return epoch_merit(rule, epoch, value=value, loss=loss, maximize=self._maximize)

    def _charge(self, record: FinalRecord) -> FinalRecord:
        now = self._now()
        spent = max(0.0, now - self._charged.get(record.final, now))
        self._charged[record.final] = now
        return replace(record, seconds=round(record.seconds + spent, 3))

    def _is_retried(self, record: FinalRecord, error: LeaseError | None) -> bool:
        """Whether one without an outcome is tried again, in this run or the next."""
        transient = error is not None and error.transient
        if self.stopping and (error is None or transient):
            return True
        return transient and record.crashes < MAX_CRASHES


def _decide(record: FinalRecord, report: Report) -> Decision:
    if not record.state.has_ended:
        return Decision(trial=record.final, epoch=report.epoch, action=Action.CONTINUE)
    return Decision(
        trial=record.final,
        epoch=report.epoch,
        action=Action.STOP,
        outcome=Outcome(record.state.value),
        reason=report.reason,
        detail=last_line(record.error),
    )


def _give_up(record: FinalRecord, error: LeaseError | None) -> tuple[FinalRecord, Decision]:
    error = error or LeaseError(message="the worker ended without an outcome", transient=False)
    decision = Decision(
        trial=record.final,
        epoch=record.epochs,
        action=Action.STOP,
        outcome=Outcome.FAILED,
        reason=error.reason,
        detail=last_line(error.message),
    )
    return replace(record, state=State.FAILED, error=error.message), decision
