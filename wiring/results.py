"""Makes the results of a study: the answer with its exported model, the report, MLflow's view.

Each is made by the first run that finds it missing, or made from an earlier state of the records.
"""

from __future__ import annotations

import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.answer.record import Answer
from analysis.answer.words import describe_answer, find_reading, has_test_split
from analysis.reading import load_study
from analysis.report import ReportDraft, draft_report, is_current, write_report
from analysis.tracking import Tracker, find_leaderboard, log_model, sync
from cluster.search.outcomes import last_line
from cluster.search.search import Search
from cluster.study.directory import Study
from contract.files import first_line
from contract.study_layout import StudyPaths
from wiring.answer_processes import AnswerProcesses
from wiring.answers import AnswerMaker
from wiring.model_directory import refresh_readme
from wiring.model_formats import telling_lost_formats

MAKING = "choosing the answer, and exporting it as a model"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Makes the results of one study, whose search is over for now."""

    directory: Path
    """The study's."""

    maker: AnswerMaker | None
    """Makes the answer; None where no trial completed."""

    console: Console
    keeps_answer: bool = True
    """An answer that finalize.py made with other wishes stays, as long as the candidates are the same."""

    command: str = "tune.py"
    answering: AnswerProcesses | None = None
    """Makes the answer beside this process, which drafts the report meanwhile; None = in this one."""

    tracker: Tracker | None = None
    """Has a process in which MLflow is imported, if a search has run; None = this process writes MLflow."""

    tracking_uri: str | None = None
    """MLflow store or server of a study that has moved; None = the one that study.json names."""

    drafts: list[ReportDraft] = field(default_factory=list, init=False)
    """The report's draft, once there is one."""

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.directory)

    def begin(self) -> None:
        """Begin to make a missing answer in its own process, so that something else can be done meanwhile."""
        if self.maker is not None and self.answering is not None and self._find_answer(self.maker) is None:
            self.answering.begin(self.maker)

    def make(self) -> bool:
        """Make the missing results. A failure is one line and does not stop the others; false after one."""
        exported = self._attempt("the answer could not be made", self._answer)
        written = self._write_beside(with_model=exported)
        reported = self._attempt("the report could not be written", self._report)
        # Whatever MLflow raises: model and report stand without it, and the next run writes it.
        self._attempt("MLflow could not be written", lambda: self._track(written))
        return exported and reported

    def _attempt(self, failure: str, work: Callable[[], None]) -> bool:
        return attempt(failure, work, command=self.command)

    def _answer(self) -> None:
        if self.maker is None:
            return
        is_making = self.answering is not None and self.answering.is_making
        answer = None if is_making else self._find_answer(self.maker)
        if answer is None:
            with telling_lost_formats(self.paths.model, self._say), self.console.status(MAKING):
                answer = self._make_answer(self.maker)
        refresh_readme(self.paths.model, self.directory, answer.facts)  # of a reading that came since
        has_test = has_test_split(load_study(self.directory))
        for line in describe_answer(answer, find_reading(self.directory), has_test=has_test):
            self._say(line)
        self._say(f"model: {self.paths.model.directory}")

    def _find_answer(self, maker: AnswerMaker) -> Answer | None:
        return maker.find_current(of_any_wishes=self.keeps_answer)

    def _make_answer(self, maker: AnswerMaker) -> Answer:
        if self.answering is None:
            return maker.make()
        return self.answering.make(maker, meanwhile=self._draft)

    def _draft(self) -> None:
        with suppress(Exception):  # whatever it is, `_report` meets it again and says so
            self.drafts.append(draft_report(self.directory))

    def _report(self) -> None:
        path = self.paths.report
        if not is_current(self.directory):
            with self.console.status("writing the report"):
                path = write_report(self.directory, draft=self.drafts[-1] if self.drafts else None)
        self._say(f"report: {path}")

    def _write_beside(self, *, with_model: bool) -> Callable[[], str]:
        """Begin to write MLflow where another process does it; the function waits, and has the model's URI.

        Without such a process the function writes.
        """
        if self.tracker is None:
            return partial(self._write_mlflow, with_model=with_model)
        future: Future[str] = Future()

        def write() -> None:
            try:
                future.set_result(self._write_mlflow(with_model=with_model))
            except BaseException as error:  # raised where the result is waited for
                future.set_exception(error)

        threading.Thread(target=write, name="MLflow model", daemon=True).start()
        return future.result

    def _write_mlflow(self, *, with_model: bool) -> str:
        if self.tracker is not None:
            self.tracker.finish()
        target = self.paths.model.directory
        if with_model and target.exists():
            return self._in_mlflow(log_model, target, self.tracking_uri)
        self._in_mlflow(sync, self.tracking_uri)
        return ""

    def _track(self, written: Callable[[], str]) -> None:
        with self.console.status("bringing MLflow up to date"):
            if model := written():
                self._say(f"MLflow model: {model}")
            self._say(f"MLflow leaderboard: {self._in_mlflow(find_leaderboard, self.tracking_uri)}")

    def _in_mlflow(self, work: Callable[..., str], *arguments: Any) -> str:
        if self.tracker is None:
            return work(self.directory, *arguments)
        return str(self.tracker.call(work, self.directory, *arguments))

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def attempt(failure: str, work: Callable[[], None], *, command: str = "tune.py") -> bool:
    """Run one step; print its failure in one line, and return whether it worked."""
    try:
        work()
    except Exception as error:  # a full disk, torch.export, MLflow: each raises what it likes
        is_ours = isinstance(error, ValueError | OSError)
        cause = first_line(error) if is_ours else f"{type(error).__name__}: {first_line(error)}"
        print(f"{command}: {failure}: {cause}; run the same command to try again", file=sys.stderr)
        return False
    return True


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
