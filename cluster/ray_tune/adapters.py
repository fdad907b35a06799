"""Adapters that show a source of leases to Ray Tune as a Searcher, a scheduler and a stopper."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.cloudpickle as cloudpickle
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.ray_tune.progress import Progress
from cluster.search.lease_source import DONE, LeaseSource
from contract.files import DISK_FULL
from contract.lease_errors import LeaseError, interruption_of
from contract.messages import Action, Decision, Lease, Reason, read_reports
from contract.probes import read_probe_reports

FIRST_SECONDS = 5.0
"""Seconds after the first worker for which one that has nothing to do waits for the others."""


class Bridge:
    """The state that the three adapters share: which Ray trial holds which lease, and how many may run.

    Tune tells the scheduler of a result first, and tells the searcher only if the trial goes on: so values
    and decisions are recorded together in the scheduler's adapter.
    """

    def __init__(
        self,
        search: LeaseSource,
        *,
        settings: Mapping[str, Any],
        slots: int,
        progress: Progress,
        watch: Callable[[], None],
        on_ended: Callable[[int], None],
        on_finished: Callable[[], None] = lambda: None,
        count_slots: Callable[[], int] | None = None,
    ) -> None:
        self.search, self.settings, self.slots, self.progress = search, settings, slots, progress
        self._watch, self._count_slots = watch, count_slots
        self._on_ended = on_ended
        """Called with the number of each trial that ended or paused, once that is recorded."""
        self._on_finished, self._is_finished = on_finished, False
        """Called once, when every trial has its outcome and none is left to propose."""
        self.leases: dict[str, Lease] = {}
        self.running: set[str] = set()
        """Ids of the Ray trials whose worker is up."""
        self._last_iteration: dict[str, int] = {}
        self._first_up: float | None = None
        """When the first worker came up."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its parts for restore, which is not used: the study database is the truth

    def look_around(self) -> None:
        """Check at every step of Tune's loop whether the search must stop, and how many trials fit."""
        self._watch()
        if self._count_slots is not None and (slots := self._count_slots()) != self.slots:
            self.progress.note(
                f"{slots} trials at once now, {self.slots} before: the cluster's nodes have changed"
            )
            self.slots = slots

    def suggest(self, tune_id: str) -> dict[str, Any] | str | None:
        """The next lease as a Tune config; None while none is ready, Searcher.FINISHED after the last."""
        if len(self.leases) >= self.slots and not self.search.stopping:
            return None
        self.search.set_slots(self.slots)
        lease = self.search.next_lease()
        self._look_for_end()
        if lease is DONE:
            return str(Searcher.FINISHED)
        if lease is None:
            return None
        assert isinstance(lease, Lease)
        self.leases[tune_id] = lease
        return lease.as_config(self.settings)

    def started(self, tune_id: str) -> None:
        if tune_id in self.running or tune_id not in self.leases:
            return
        self.running.add(tune_id)
        self._first_up = self._first_up or time.monotonic()
        self.search.lease_started(self.leases[tune_id])
        self.progress.lease_started(self.leases[tune_id])

    def receive(self, tune_id: str, result: Mapping[str, Any]) -> None:
        """Record a result once: Tune shows the last one again when the trial completes."""
        iteration = result.get("training_iteration", 0)
        if iteration == self._last_iteration.get(tune_id):
            return
        self._last_iteration[tune_id] = iteration
        worker = f"{result.get('hostname')}:{result.get('pid')}"
        if probes := read_probe_reports(result):
            self.search.receive_probes(probes, worker=worker)
            self.progress.probes_reported()
        reports = read_reports(result)
        decisions = self.search.receive(reports, worker=worker)
        for report, decision in zip(reports, decisions, strict=True):
            self.progress.reported(report, decision)
        self._say_ended(decisions)

    def has_ended(self, tune_id: str) -> bool:
        """True once no trial and no probe of the lease goes on, or the search stops."""
        return self.search.stopping or not self.search.goes_on(self.leases[tune_id])

    def waits_for_workers(self) -> bool:
        """True in the first seconds, while other workers are still on their way.

        A worker whose lease has ended would take the lease that one of them is starting for, and Tune would
        throw that one away: on two cores its start and its imports, 4 s.
        """
        if self._first_up is None or time.monotonic() - self._first_up > FIRST_SECONDS:
            return False
        return not self.search.stopping and self.leases.keys() != self.running

    def ended(self, tune_id: str, error: LeaseError | None = None) -> None:
        self.running.discard(tune_id)
        self._last_iteration.pop(tune_id, None)
        lease = self.leases.pop(tune_id, None)
        if lease is not None:
            if error is not None and error.reason is Reason.DISK_FULL:
                self.search.stop(f"{error.message}: free some, and run the same command to continue")
            decisions = self.search.lease_ended(lease, error)
            self.progress.lease_ended(lease, decisions, error)
            self._say_ended(decisions)

    def _say_ended(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if decision.outcome is not None or decision.action is Action.PAUSE:
                self._on_ended(decision.trial)
        self._look_for_end()

    def _look_for_end(self) -> None:
        if not self._is_finished and self.search.finished:
            self._is_finished = True
            self._on_finished()


class SearcherAdapter(Searcher):
    """Tune's source of configurations; each is a lease."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._bridge.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler's adapter has recorded the result."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study database is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as `save`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing, as `save`."""


class SchedulerAdapter(FIFOScheduler):
    """Tune's scheduler; it records each result with its decision before Tune acts on it."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """The newest pending trial; Tune asks at every step, so the workers that are up are noted here too.

        The newest has no worker of its own on the way. Any other would take one that became free, and Tune
        would end the one that was starting for it: with epochs of 5 s half of 64 workers never came up.

        A Callback would be told when a worker is up, but with any callback Tune imports MLflow to count users
        (1.1 s).
        """
        tune_controller.update_max_pending_trials(self._bridge.slots)  # nodes come and go
        live = {trial.trial_id: trial for trial in tune_controller.get_live_trials()}
        for tune_id, trial in live.items():
            if trial.status == TuneTrial.RUNNING:
                self._bridge.started(tune_id)
        newest_first = (live[tune_id] for tune_id in reversed(self._bridge.leases) if tune_id in live)
        return next((trial for trial in newest_first if trial.status == TuneTrial.PENDING), None)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        self._bridge.receive(trial.trial_id, result)
        is_over = bool(result.get("over")) or self._bridge.has_ended(trial.trial_id)
        ended = is_over and not self._bridge.waits_for_workers()
        return str(TrialScheduler.STOP if ended else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        # A result that says `done` comes here only.
        self._bridge.receive(trial.trial_id, result)
        self._bridge.ended(trial.trial_id)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._bridge.ended(trial.trial_id, _describe_error(trial))

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._bridge.ended(trial.trial_id)


class SearchStopper(Stopper):
    """Ends the experiment once a stopped search has the last epoch of everything that was running."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._bridge.look_around()
        return self._bridge.search.stopping and not self._bridge.running


def _describe_error(trial: TuneTrial) -> LeaseError:
    """Explain why a Ray trial ended: its trainable raised, or its worker was lost, which is transient."""
    raised: BaseException | None = None
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        with Path(trial.pickled_error_file).open("rb") as file:
            raised = cloudpickle.load(file)
    if isinstance(raised, RayTaskError):
        return _describe_raised(raised)
    text = str(raised) if raised else _error_text(trial)
    # Ray kills the hungriest worker of a node that runs out of memory, and says so in the message only.
    starved = isinstance(raised, OutOfMemoryError) or "running low on memory" in text
    reason = Reason.OUT_OF_MEMORY if starved else Reason.BUG
    return LeaseError(message=text, transient=True, reason=reason)


def _describe_raised(raised: RayTaskError) -> LeaseError:
    """Explain why a trainable raised: a failure that would come again, or one that ends the lease only."""
    cause = raised.cause
    reason = interruption_of(cause)
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        reason = Reason.DISK_FULL
    if reason is None:
        return LeaseError(message=str(raised), transient=False)
    message = cause.strerror if isinstance(cause, OSError) else None
    return LeaseError(message=message or str(cause), transient=True, reason=reason)


def _error_text(trial: TuneTrial) -> str:
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text(encoding="utf-8") if path and path.exists() else "the worker died"
