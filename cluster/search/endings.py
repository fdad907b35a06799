"""Endings: what the database is told of a trial that is over."""

from __future__ import annotations

import traceback as tracebacks
from typing import Any

from optuna.trial import TrialState

from cluster.search.outcomes import Verdict
from cluster.search.proposals import CONSTRAINT, Infeasible
from cluster.search.trial_status import TrialStatus
from cluster.study.records import Ending

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "infeasible": TrialState.PRUNED,  # Optuna has no such state; a constraint tells the two apart
}


def make_ending(
    trial: TrialStatus, verdict: Verdict, *, values: tuple[float, ...] | None, now: float
) -> Ending:
    """End the trial, and say so; `values` are its best epoch's metrics."""
    assert verdict.outcome is not None
    trial.outcome, trial.paused = verdict.outcome, False
    attrs: dict[str, Any] = {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "traceback": verdict.traceback,
        "worker": trial.worker,
        "attempts": trial.attempt,
        "seconds": round(trial.seconds, 3),
        "ended": now,
    }
    infeasible = verdict.outcome == "infeasible"
    return Ending(
        trial=trial.number,
        state=_STATES[verdict.outcome],
        values=None if verdict.outcome in ("failed", "infeasible") else values,
        attrs={name: value for name, value in attrs.items() if value is not None},
        system_attrs={CONSTRAINT: max(verdict.excess, 1e-9)} if infeasible else {},
    )


def verdict_of_error(error: Exception) -> Verdict:
    """What a space that raised makes of the trial it was asked for."""
    if isinstance(error, Infeasible):
        return Verdict(outcome="infeasible", reason=str(error), excess=1.0)
    return Verdict(outcome="failed", reason="bug", traceback="".join(tracebacks.format_exception(error)))
