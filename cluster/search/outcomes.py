"""Verdicts: what a report makes of its trial, judged by its numbers, its worker's word and the scheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.schedulers import Scheduler
from cluster.search.scores import Scores
from cluster.search.trial_status import TrialStatus
from cluster.study.records import EpochRecord
from contract.messages import Decision, Report


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why a trial goes on, waits or ends."""

    outcome: str | None = None
    """complete | pruned | failed | infeasible; None: it does not end."""
    paused: bool = False
    gained: bool = False
    """The report holds the best value of the whole study so far, better than all before it."""
    reason: str | None = None
    traceback: str | None = None
    excess: float = 0.0
    """Of an infeasible trial: how far beyond the limit, as a share of it."""

    @property
    def recorded_as(self) -> str:
        """The decision's word in the table `epochs`."""
        words = {"complete": "complete", "pruned": "stop", "infeasible": "stop", "failed": "failed"}
        return words[self.outcome] if self.outcome else ("pause" if self.paused else "continue")


def judge(report: Report, trial: TrialStatus, *, scores: Scores, scheduler: Scheduler, seed: int) -> Verdict:
    """Take the report's numbers into the scores, and say what follows."""
    if report.outcome == "failed":
        return Verdict(outcome="failed", reason=report.reason or "bug", traceback=report.traceback)
    if report.outcome == "infeasible":
        return Verdict(outcome="infeasible", reason=report.reason, excess=report.excess)
    for name in scores.metrics:
        if name not in report.metrics:
            text = f"no {name} in the report of epoch {report.epoch}"
            return Verdict(outcome="failed", reason="bug", traceback=text)
        if not math.isfinite(report.metrics[name]):
            return Verdict(outcome="failed", reason="diverged", traceback=f"{name} is {report.metrics[name]}")
    is_complete = report.outcome == "complete"
    gained = scores.note(trial.number, report.epoch, report.metrics, is_end=is_complete)
    if is_complete:
        return Verdict(outcome="complete", gained=gained)
    if trial.is_recipe:
        return Verdict(gained=gained)  # whatever the search finds must be no worse than the published recipes
    if trial.decisions.get(report.epoch) in ("continue", "pause"):
        return Verdict(gained=gained)  # a replayed epoch: later results must not change what was decided
    action = scheduler.decide(trial=trial.number, epoch=report.epoch, curves=scores.curves, seed=seed)
    return Verdict(outcome="pruned" if action == "stop" else None, paused=action == "pause", gained=gained)


def make_row(report: Report, verdict: Verdict, *, arrival: float) -> EpochRecord:
    return EpochRecord(
        trial=report.trial,
        epoch=report.epoch,
        attempt=report.attempt,
        metrics={name: float(value) for name, value in report.metrics.items()},
        arrival=arrival,
        decision=verdict.recorded_as,
    )


def make_decision(trial: TrialStatus, epoch: int, verdict: Verdict) -> Decision:
    """What Ray and the user are told of a verdict that has been taken in."""
    return Decision(
        trial=trial.number,
        epoch=epoch,
        action="stop" if trial.outcome else ("pause" if trial.paused else "continue"),
        outcome=trial.outcome,
        reason=verdict.reason,
        detail=last_line(verdict.traceback),
    )


def last_line(text: str | None) -> str | None:
    """What a traceback comes down to."""
    return text.strip().rpartition("\n")[2] if text else None
