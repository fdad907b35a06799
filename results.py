"""Makes the results of a study: the exported classifier, the report, MLflow's view.

Each is made by the first run that finds it missing, or made from an earlier state of the records.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.report import is_current, write_report
from analysis.tracking import log_model, sync
from cluster.search.outcomes import last_line
from cluster.search.search import Search
from cluster.study.directory import Study
from contract.answer import Combination, MemberRef
from contract.files import fill_aside, first_line, remove_leftovers
from contract.messages import StudySettings
from contract.study_layout import ModelPaths, StudyPaths


@dataclass(frozen=True, kw_only=True)
class Results:
    """Makes the results of one study, whose search is over for now."""

    study: Study
    search: Search
    settings: StudySettings
    console: Console

    @property
    def paths(self) -> StudyPaths:
        return self.study.paths

    def make(self) -> bool:
        """Make the missing results. A failure is one line and does not stop the others; false after one."""
        exported = attempt("the best classifier could not be exported", self._export)
        reported = attempt("the report could not be written", self._report)
        # Whatever MLflow raises: classifier and report stand without it, and the next run writes it.
        attempt("MLflow could not be written", lambda: self._track(with_model=exported))
        return exported and reported

    def _export(self) -> None:
        best = self.search.best_complete()
        if best is None:
            return
        number, value = best
        metrics = {self.search.scores.metric: value}
        about = {"study": self.study.info["study"], "trial": number, "metrics": metrics}
        target = self.paths.model.directory
        if not is_export_of(self.paths.model, about):
            self._export_to(target, number, about)
        self._say(f"best classifier: trial {number}, {target}")

    def _export_to(self, target: Path, number: int, about: Mapping[str, Any]) -> None:
        from trainables.export.program import export_combination  # torch takes seconds to import

        remove_leftovers(target.parent, target.name)  # of a run that was killed here
        status = self.console.status(f"exporting the classifier of trial {number}")
        with status, fill_aside(target, replace=True, durable=True) as folder:
            ref = MemberRef("trial", number)
            export_combination(
                Combination.single(ref),
                {ref: self.search.trials[number].config},
                self.settings,
                target=ModelPaths(folder),
                about=about,
            )

    def _report(self) -> None:
        path = self.paths.report
        if not is_current(self.study.directory):
            with self.console.status("writing the report"):
                path = write_report(self.study.directory)
        self._say(f"report: {path}")

    def _track(self, *, with_model: bool) -> None:
        target = self.paths.model.directory
        with self.console.status("bringing MLflow up to date"):
            if with_model and target.exists():
                self._say(f"MLflow model: {log_model(self.study.directory, target)}")
            else:
                sync(self.study.directory)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def attempt(failure: str, work: Callable[[], None]) -> bool:
    """Run one step; print its failure in one line, and return whether it worked."""
    try:
        work()
    except Exception as error:  # a full disk, torch.export, MLflow: each raises what it likes
        is_ours = isinstance(error, ValueError | OSError)
        cause = first_line(error) if is_ours else f"{type(error).__name__}: {first_line(error)}"
        print(f"tune.py: {failure}: {cause}; run the same command to try again", file=sys.stderr)
        return False
    return True


def is_export_of(model: ModelPaths, about: Mapping[str, Any]) -> bool:
    """True if the directory holds the classifier that `about` describes."""
    try:
        card = json.loads(model.card.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return model.program.is_file() and all(card.get(name) == value for name, value in about.items())


def why_nothing_completed(study: Study, search: Search) -> str:
    """Say how the trials of a search without a result ended, with the commonest reason."""
    parts = [f"{num} {outcome}" for outcome, num in search.counts().items() if num]
    reasons = Counter(
        ": ".join(filter(None, (record.attrs["reason"], last_line(record.attrs.get("traceback")))))
        for record in study.records.load()
        if record.attrs.get("reason")
    )
    commonest = [f"; most often: {reason}" for reason, _ in reasons.most_common(1)]
    return f"no trial completed ({', '.join(parts) or 'none began'}){''.join(commonest)}"


def how_long_a_trial_takes(search: Search) -> str:
    """Say how long an epoch took, and how long a whole trial would take."""
    measured = [
        (trial.seconds / trial.num_epochs, int(trial.config["max_epochs"]))
        for trial in search.trials.values()
        if trial.num_epochs and trial.seconds > 0
    ]
    if not measured:
        return "not even one epoch ended"
    epoch = statistics.median(seconds for seconds, _ in measured)
    whole = statistics.median(seconds * epochs for seconds, epochs in measured)
    return f"an epoch takes about {epoch:.1f} s, a whole trial about {whole:.0f} s"
