"""Judges reports: whether a trial goes on, pauses or ends, by its metrics, its worker and the scheduler."""

from __future__ import annotations

import math
import traceback as tracebacks
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from cluster.schedulers import Scheduler
from cluster.search.proposals import CONSTRAINT, Infeasible
from cluster.search.scores import Scores
from cluster.search.trial_status import TrialStatus
from cluster.study.records import Ending, EpochRecord
from contract.messages import Action, Decision, EpochDecision, Outcome, Reason, Report


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a report, or an error, makes of its trial."""

    outcome: Outcome | None = None
    """None if the trial does not end."""

    paused: bool = False
    """It waits at its rung until the scheduler promotes it."""

    gained: bool = False
    """With the report the best kept value of the whole study is better than it ever was."""

    reason: Reason | None = None
    """Only of a failed trial."""

    traceback: str | None = None
    limit: str | None = None
    """The limit that an infeasible trial exceeds, in words."""

    why: str | None = None
    """Why the scheduler ended a pruned trial, in words."""

    excess: float = 0.0
    """How far beyond the limit an infeasible trial is, as a share of it."""

    @property
    def recorded_as(self) -> EpochDecision:
        """What the table `epochs` says of it."""
        return EpochDecision.of(self.outcome, paused=self.paused)


def judge(report: Report, trial: TrialStatus, *, scores: Scores, scheduler: Scheduler, seed: int) -> Verdict:
    """Add the report's metrics to the scores and decide what becomes of the trial."""
    if report.outcome is Outcome.FAILED:
        return Verdict(outcome=Outcome.FAILED, reason=report.reason or Reason.BUG, traceback=report.traceback)
    if report.outcome is Outcome.INFEASIBLE:
        return Verdict(outcome=Outcome.INFEASIBLE, limit=report.limit, excess=report.excess)
    for name in scores.metrics:
        if name not in report.metrics:
            text = f"no {name} in the report of epoch {report.epoch}"
            return Verdict(outcome=Outcome.FAILED, reason=Reason.BUG, traceback=text)
        if not math.isfinite(report.metrics[name]):
            text = f"{name} is {report.metrics[name]}"
            return Verdict(outcome=Outcome.FAILED, reason=Reason.DIVERGED, traceback=text)
    is_complete = report.outcome is Outcome.COMPLETE
    gained = scores.note(
        trial.number, report.epoch, report.metrics, is_end=is_complete, predicted=report.predicted
    )
    if is_complete:
        return Verdict(outcome=Outcome.COMPLETE, gained=gained)
    if trial.is_recipe:
        return Verdict(gained=gained)  # so that the result is never worse than the published recipes
    earlier = trial.decisions.get(report.epoch)
    if earlier is not None and not earlier.ends_trial:
        return Verdict(gained=gained)  # a replayed epoch: later results must not change the decision
    action = scheduler.decide(trial=trial.number, epoch=report.epoch, curves=scores.curves, seed=seed)
    if action is Action.STOP:
        why = scheduler.explain(trial=trial.number, epoch=report.epoch, curves=scores.curves)
        return Verdict(outcome=Outcome.PRUNED, why=why, gained=gained)
    return Verdict(paused=action is Action.PAUSE, gained=gained)


def make_row(report: Report, verdict: Verdict, *, arrival: float) -> EpochRecord:
    """The row of the table `epochs`; `arrival` is unix time."""
    return EpochRecord(
        trial=report.trial,
        epoch=report.epoch,
        attempt=report.attempt,
        metrics={name: float(value) for name, value in report.metrics.items()},
        arrival=arrival,
        decision=verdict.recorded_as,
        predicted=report.predicted,
    )


def make_decision(trial: TrialStatus, epoch: int, verdict: Verdict) -> Decision:
    """The decision that Ray and the user are told, once `trial` reflects the verdict."""
    return Decision(
        trial=trial.number,
        epoch=epoch,
        action=Action.STOP if trial.outcome else (Action.PAUSE if trial.paused else Action.CONTINUE),
        outcome=trial.outcome,
        reason=verdict.reason,
        detail=verdict.limit or last_line(verdict.traceback),
    )


def last_line(text: str | None) -> str | None:
    """The last line of a traceback, which names the error; None without one."""
    return text.strip().rpartition("\n")[2] if text else None


_STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
    Outcome.INFEASIBLE: TrialState.PRUNED,  # Optuna has no such state; a constraint tells the two apart
}


def make_ending(
    trial: TrialStatus, verdict: Verdict, *, values: tuple[float, ...] | None, now: float
) -> Ending:
    """End the trial, and make its record; `values` are the objectives at its kept epoch."""
    assert verdict.outcome is not None, "a trial that goes on has no ending"
    trial.outcome, trial.paused = verdict.outcome, False
    attrs: dict[str, Any] = {
        "outcome": verdict.outcome,
        "reason": verdict.reason or verdict.limit or verdict.why,
        "traceback": verdict.traceback,
        "worker": trial.worker,
        "attempts": trial.attempt,
        "seconds": round(trial.seconds, 3),
        "ended": now,
    }
    is_infeasible = verdict.outcome is Outcome.INFEASIBLE
    return Ending(
        trial=trial.number,
        state=_STATES[verdict.outcome],
        values=values if verdict.outcome.has_value else None,
        attrs={name: value for name, value in attrs.items() if value is not None},
        system_attrs={CONSTRAINT: max(verdict.excess, 1e-9)} if is_infeasible else {},
    )


def verdict_of_error(error: Exception) -> Verdict:
    """The verdict on a trial whose configuration the space refused or failed to make."""
    if isinstance(error, Infeasible):
        return Verdict(outcome=Outcome.INFEASIBLE, limit=str(error), excess=1.0)
    text = "".join(tracebacks.format_exception(error))
    return Verdict(outcome=Outcome.FAILED, reason=Reason.BUG, traceback=text)
