"""Names all files on disk (studies, trials, models, caches), and the ends of studies and their runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from contract.model_layout import ModelPaths

STUDY_FILE = "study.json"
"""File that makes a directory a study."""

RUNNING_ONLY = ("checkpoint*", ".*", "lock", "*-wal", "*-shm", "train")
"""Patterns of files in a study that only a running search needs: a copy leaves them out."""


class StudyStatus(StrEnum):
    """Status of a study, as study.json has it."""

    NEW = "new"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    """The search was interrupted or ran out of time: the same command goes on."""

    FAILED = "failed"


class RunOutcome(StrEnum):
    """End of one run of a study; unless it finished, the same command goes on with the study."""

    FINISHED = "finished"
    NO_GAIN = "no gain"
    """--patience is used up: a larger one goes on."""

    INTERRUPTED = "interrupted"
    TIME_BUDGET = "time budget"
    FAILED = "failed"
    LOST = "lost"
    """Another driver may have the study by now, so nothing of it may be written any more."""

    @property
    def study_status(self) -> StudyStatus:
        """Return the status in which this end leaves the study."""
        if self in (RunOutcome.FINISHED, RunOutcome.NO_GAIN):
            return StudyStatus.FINISHED
        return StudyStatus.FAILED if self is RunOutcome.FAILED else StudyStatus.STOPPED


@dataclass(frozen=True)
class StudyPaths:
    """Files of one study."""

    directory: Path

    @property
    def facts(self) -> Path:
        """Flags, versions, data and search space of each run."""
        return self.directory / STUDY_FILE

    @property
    def database(self) -> Path:
        """Optuna's tables and ours, unless --storage names a server."""
        return self.directory / "study.db"

    @property
    def manifest(self) -> Path:
        """Id, path, label and split of every image."""
        return self.directory / "data.csv"

    @property
    def synthetic(self) -> Path:
        """Path, class and digest of every synthetic image; only of a study with --synthetic."""
        return self.directory / "synthetic.csv"

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    @property
    def model(self) -> ModelPaths:
        """The exported classifier."""
        return ModelPaths(self.directory / "model")

    def cascade(self, then: str) -> ModelPaths:
        """The model that this study's makes with that of another one, for the classes it takes for one."""
        return ModelPaths(self.directory / "cascade" / then)

    @property
    def trials(self) -> Path:
        return self.directory / "trials"

    def trial(self, number: int) -> TrialPaths:
        return TrialPaths(self.trials / str(number))

    @property
    def finals(self) -> Path:
        return self.directory / "finals"

    def final(self, number: int) -> TrialPaths:
        """Files of a final training: a repeated seed, a fold, a refit or a soup."""
        return TrialPaths(self.finals / str(number))

    @property
    def answer(self) -> Path:
        """What was chosen of the study's trials and why, as JSON."""
        return self.directory / "answer.json"

    @property
    def costs(self) -> Path:
        """Measured milliseconds of the models that could be chosen, which the choice goes by."""
        return self.directory / "costs.json"

    @property
    def lock(self) -> Path:
        """Lock that the study's driver holds."""
        return self.directory / "lock"

    @property
    def tracking_lock(self) -> Path:
        """Lock of the process that writes the study to MLflow."""
        return self.directory / ".tracking.lock"

    @property
    def ray_tune(self) -> Path:
        """Ray Tune's own files while a search runs."""
        return self.directory / ".ray"

    @property
    def ray_train(self) -> Path:
        """Ray Train's own files of trials on several workers."""
        return self.directory / "train"

    def node_mark(self, token: str) -> Path:
        """Mark that one node writes and the others look for, to check that they share the directory."""
        return self.directory / f".seen-{token}"

    def write_probe(self, process: int) -> Path:
        """Written and removed to learn whether the directory can be written."""
        return self.directory / f".write-test.{process}"

    @property
    def tracking_database(self) -> Path:
        """MLflow's SQLite file, shared by all studies of the runs directory."""
        return self.directory.parent / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        """MLflow's files of this study, without a %: MLflow decodes the paths that it loads."""
        return self.directory.parent / "mlartifacts" / self.directory.name.replace("%", "_")


@dataclass(frozen=True)
class TrialPaths:
    """Files of one trial of a study."""

    directory: Path

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint; deleted once the trial's outcome is recorded."""
        return self.directory / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before it, which is read if the newest is torn."""
        return self.directory / "checkpoint.previous.pt"

    @property
    def checkpoints(self) -> tuple[Path, Path]:
        """Both checkpoints, the newest first."""
        return self.checkpoint, self.previous_checkpoint

    @property
    def weights(self) -> Path:
        """Trained weights of the kept epoch; there for the best trials only."""
        return self.directory / "model.pt"

    @property
    def predictions(self) -> Path:
        """Log-probabilities of the validation images, or of a fold: none of them was trained on."""
        return self.directory / "predictions.npz"

    @property
    def flipped_predictions(self) -> Path:
        """Log-probabilities of the mirrored validation images, where they were asked for."""
        return self.directory / "predictions_flip.npz"

    @property
    def fitted_predictions(self) -> Path:
        """Log-probabilities of validation images that a refit was trained on; nothing may be chosen by them.

        Their file has another name, so that whoever looks for `predictions` finds none.
        """
        return self.directory / "fitted.npz"

    @property
    def attempt(self) -> Path:
        """The number of the newest attempt: an older one must not write any more."""
        return self.directory / "attempt"

    @property
    def lock(self) -> Path:
        return self.directory / ".lock"


@dataclass(frozen=True)
class CachePaths:
    """Folders of --cache-dir, which all studies share and which are safe to delete."""

    directory: Path

    @property
    def images(self) -> Path:
        return self.directory / "images"

    @property
    def activations(self) -> Path:
        return self.directory / "activations"

    @property
    def datasets(self) -> Path:
        """Images that were downloaded or written by us."""
        return self.directory / "datasets"

    @property
    def bytecode(self) -> Path:
        """Compiled Python files of workers."""
        return self.directory / "bytecode"


def is_study(directory: Path) -> bool:
    """True if the directory holds a study."""
    return StudyPaths(directory).facts.is_file()


def study_directories(runs_dir: Path) -> list[Path]:
    """List the directories of studies under `runs_dir`, in alphabetical order."""
    return sorted(facts.parent for facts in runs_dir.glob(f"*/{STUDY_FILE}"))


def is_own_folder(folder: Path) -> bool:
    """True for a folder that this program wrote: a study, a folder of studies, a model or a cache."""
    study, model = StudyPaths(folder), ModelPaths(folder)
    marks = (study.facts, folder / study.tracking_database.name, CachePaths(folder).images / "index.db")
    return any(mark.exists() for mark in marks) or (model.program.exists() and model.card.exists())
