"""Messages between driver and workers, and the one vocabulary for the ends of trials and leases.

Messages travel as plain values through Ray and JSON: `as_values` writes them, `from_values` reads them. The
values of the enumerations stand in study databases and must not change.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from contract.finals import FinalTraining
from contract.probes import LeasedProbe
from contract.study_layout import StudyPaths, TrialPaths
from contract.weights_source import WeightsSource

if TYPE_CHECKING:
    from contract.decoding import Fit


class Outcome(StrEnum):
    """Outcome of a trial that has ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    """The scheduler stopped it."""

    FAILED = "failed"
    INFEASIBLE = "infeasible"
    """Its configuration cannot be run within the limits of the study."""

    @property
    def has_value(self) -> bool:
        """Its kept epoch counts in rankings and for the sampler."""
        return self in (Outcome.COMPLETE, Outcome.PRUNED)


class State(StrEnum):
    """State of a trial: its outcome, or that it has none yet."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    RUNNING = "running"
    WAITING = "waiting"
    """Proposed, but not started."""

    @classmethod
    def of(cls, outcome: Outcome | None) -> State:
        """The state of a trial with this outcome; without one it runs."""
        return State.RUNNING if outcome is None else State(outcome.value)

    @property
    def has_ended(self) -> bool:
        return self not in (State.RUNNING, State.WAITING)

    @property
    def has_value(self) -> bool:
        """It has ended, and its kept epoch counts in rankings."""
        return self in (State.COMPLETE, State.PRUNED)

    @property
    def is_ranked(self) -> bool:
        """Its kept epoch has a place on the leaderboard, also while it runs."""
        return self.has_value or self is State.RUNNING


class Reason(StrEnum):
    """Reason for which a trial failed or a lease was interrupted."""

    BUG = "bug"
    """An error that nothing else explains."""

    DATA = "data"
    """A file could not be read or written."""

    DIVERGED = "diverged"
    """A loss or metric became NaN or infinite."""

    OUT_OF_MEMORY = "out of memory"
    ACCELERATOR = "accelerator"
    """A fault of the device or its driver."""

    DISK_FULL = "disk full"
    """Stops the whole study, since every trial would end this way; never recorded as a trial's reason."""

    @property
    def is_likely_to_recur(self) -> bool:
        """True if a streak of such failures means that the next trial fails too.

        Diverged trials do not count: a search over learning rates must expect them.
        """
        return self not in (Reason.DIVERGED, Reason.DISK_FULL)


PAUSED = "paused: "
"""Begins the reason of a trial that was paused and never went on."""


class Action(StrEnum):
    """Fate of a trial after a report."""

    CONTINUE = "continue"
    PAUSE = "pause"
    """Its lease ends, and it may be handed out again."""

    STOP = "stop"
    IGNORED = "ignored"
    """The report is of an older attempt, or of a trial that had ended."""


SchedulerAction: TypeAlias = Literal[Action.CONTINUE, Action.PAUSE, Action.STOP]
"""Actions that a scheduler may decide on."""


class EpochDecision(StrEnum):
    """Column `decision` of the table `epochs`."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"
    """The trial ended early: pruned or infeasible."""

    COMPLETE = "complete"
    FAILED = "failed"

    @classmethod
    def of(cls, outcome: Outcome | None, *, paused: bool) -> EpochDecision:
        """Return the decision that is recorded with the epoch."""
        if outcome is None:
            return EpochDecision.PAUSE if paused else EpochDecision.CONTINUE
        return _DECISIONS[outcome]

    @property
    def ends_trial(self) -> bool:
        return self not in (EpochDecision.CONTINUE, EpochDecision.PAUSE)


_DECISIONS = {
    Outcome.COMPLETE: EpochDecision.COMPLETE,
    Outcome.PRUNED: EpochDecision.STOP,
    Outcome.INFEASIBLE: EpochDecision.STOP,
    Outcome.FAILED: EpochDecision.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class LeasedTrial:
    """One study trial or final training, as it is handed to a worker for the `attempt`-th time."""

    trial: int
    """Its number; final trainings have numbers of their own."""

    attempt: int
    config: Mapping[str, Any]
    """Hyperparameters by name."""

    done_epochs: int
    """Number of epochs that the database already has."""

    checkpoint_epochs: tuple[int, ...] = ()
    """Epochs at which the scheduler may pause the trial: the worker leaves a checkpoint there."""

    judged_epochs: tuple[int, ...] = ()
    """Epochs at which the scheduler may stop the trial: the worker leaves its predictions there."""

    until_epoch: int | None = None
    """Last epoch of a trial that may share its lease, where it leaves a checkpoint unless it is over.

    A worker cannot be told to drop one trial of several, so none of them runs past where it may be stopped.
    """

    final: FinalTraining | None = None
    """What a final training does otherwise than its trial; None for a trial."""

    @property
    def noun(self) -> str:
        """ "trial" or "final": what is numbered."""
        return "trial" if self.final is None else "final"

    @property
    def draw(self) -> int:
        """Number that random draws come from."""
        return self.trial if self.final is None else self.final.draw

    def paths(self, study: StudyPaths) -> TrialPaths:
        """Files of the trial or the final training."""
        return study.trial(self.trial) if self.final is None else study.final(self.trial)

    @property
    def shares_lease(self) -> bool:
        """True if other trials may share its lease."""
        return self.until_epoch is not None

    def as_values(self) -> dict[str, Any]:
        epochs = {name: list(getattr(self, name)) for name in ("checkpoint_epochs", "judged_epochs")}
        final = None if self.final is None else self.final.as_values()
        return asdict(self) | {"config": dict(self.config), "final": final} | epochs

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        epochs = {name: tuple(values.get(name, ())) for name in ("checkpoint_epochs", "judged_epochs")}
        final = values.get("final")
        return cls(
            **{**values, **epochs, "final": None if final is None else FinalTraining.from_values(final)}
        )


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The study trials, or the probes, that one Ray trial runs."""

    trials: tuple[LeasedTrial, ...]
    probes: tuple[LeasedProbe, ...] = ()

    def as_config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make the worker's Tune config; `settings` are plain values, as of StudySettings."""
        trials = [trial.as_values() for trial in self.trials]
        probes = [probe.as_values() for probe in self.probes]
        return {"trials": trials, "probes": probes, "settings": dict(settings)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the lease from a Tune config."""
        return cls(
            trials=tuple(LeasedTrial.from_values(values) for values in config["trials"]),
            probes=tuple(LeasedProbe.from_values(values) for values in config.get("probes", ())),
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """One epoch of one trial, as the worker saw it, or the end of the trial without a further epoch."""

    trial: int
    attempt: int
    epoch: int
    """Number of epochs that the trial has, this one included."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values by the names of METRICS; empty if the trial ended before the end of an epoch."""

    outcome: Outcome | None = None
    """None while the trial goes on."""

    reason: Reason | None = None
    """Only of a failed trial."""

    predicted: bytes | None = None
    """Class predicted for every validation image, in the order of the split, as by `pack_classes`; as text of
    base64 among plain values."""

    traceback: str | None = None
    """Only of a failed trial."""

    limit: str | None = None
    """The limit that an infeasible trial exceeds, in words."""

    excess: float = 0.0
    """How far beyond the limit an infeasible trial is, as a share of the limit."""

    def as_values(self) -> dict[str, Any]:
        values = asdict(self) | {"metrics": dict(self.metrics)}
        if self.predicted is not None:
            values["predicted"] = base64.b64encode(self.predicted).decode("ascii")
        return values | {"outcome": _plain(self.outcome), "reason": _plain(self.reason)}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a report from plain values; a trainable may leave out those with a default.

        Raises:
            ValueError: the outcome or the reason is unknown.
        """
        outcome, reason = values.get("outcome"), values.get("reason")
        predicted = values.get("predicted")
        return cls(
            trial=values["trial"],
            attempt=values["attempt"],
            epoch=values["epoch"],
            metrics=values.get("metrics") or {},
            outcome=None if outcome is None else Outcome(outcome),
            reason=None if reason is None else Reason(reason),
            predicted=None if predicted is None else base64.b64decode(predicted),
            traceback=values.get("traceback"),
            limit=values.get("limit"),
            excess=values.get("excess") or 0.0,
        )


def make_result(reports: Iterable[Report], *, over: bool = False) -> dict[str, Any]:
    """Make a worker's result of a step for Ray Tune; `over` says that nothing of its lease is left to do.

    It is not Tune's own `done`, after which the worker takes the next lease at once.
    """
    return {"reports": [report.as_values() for report in reports], "over": over}


def read_reports(result: Mapping[str, Any]) -> list[Report]:
    """Read the reports from a result of Ray Tune."""
    return [Report.from_values(values) for values in result.get("reports", ())]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer of the search to a report: an action, and the outcome if it ends the trial."""

    trial: int
    epoch: int
    action: Action
    outcome: Outcome | None = None
    """The outcome of a trial that ended; None while it goes on."""

    reason: Reason | None = None
    """Only of a failed trial."""

    detail: str | None = None
    """Last line of a failed trial's traceback, or the limit that an infeasible one exceeds."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Settings that all trials of a study share."""

    study_directory: str
    """Absolute path."""

    classes: tuple[str, ...]
    weights: str
    """"auto", "random", or a path of a file or folder."""

    image_size: int
    """Side of the square the network sees, in pixels."""

    seed: int
    metric: str
    """Metric that ranks trials, and chooses the epoch of those that keep their best."""

    maximize: bool
    cache_directory: str
    """Absolute path of the image store and the activation cache, shared by all studies."""

    cache_gigabytes: float
    num_trials: int
    """Number of trials in the study, used to estimate cache reuse."""

    threads: int
    """CPU threads of one trial's process."""

    backbone_weights: tuple[WeightsSource, ...] = ()
    """Weights of all backbones, located by the driver: workers and the export use exactly these."""

    fit: Fit | None = None
    """How images are made square for all backbones; None = as each backbone wants it."""

    deep_range: tuple[float, ...] = ()
    """Values of a DeepRange, where the data set holds images of more than 8 bits."""

    data_source: str = ""
    """URL of the bucket whose copies data.csv lists; each node makes its own. Empty without a bucket."""

    workers: int = 1
    """Processes that train one trial together."""

    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    """GPUs of one trial: 0 trains on the CPU; below 1, several trials share a GPU."""

    shared_depths: tuple[int | str, ...] = ()
    """Unfreeze depths of the study's trials: one pass computes the activations of all."""

    expected_reuse: float = 0.125
    """Estimated chance that two trials of the study read the same activations."""

    activation_dtype: Literal["auto", "float16", "float32"] = "auto"
    """Number format of the frozen prefix's output, cached or not; "auto" chooses by its size."""

    compile: bool = False
    """Compile the trainable suffix and its head with torch.compile; a head alone is not."""

    max_params: int | None = None
    """Most parameters: a larger classifier is infeasible."""

    max_latency_ms: float | None = None
    """Most milliseconds for one image: a slower classifier is infeasible."""

    @property
    def use_gpu(self) -> bool:
        return self.gpus_per_worker > 0

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(Path(self.study_directory))

    def trial_paths(self, trial: int) -> TrialPaths:
        return self.paths.trial(trial)

    def as_values(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from plain values, whose tuples may have become lists on the way to a worker."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        plain["backbone_weights"] = tuple(
            WeightsSource(**source) for source in plain.get("backbone_weights", ())
        )
        return cls(**plain)


def _plain(value: StrEnum | None) -> str | None:
    """Turn an enumeration into a bare string, which can be unpickled without this project."""
    return None if value is None else value.value
