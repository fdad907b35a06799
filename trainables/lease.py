"""A lease on this worker: its trials run an epoch at a time, guarded against their own errors."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainables.config import StudySettings
from trainables.run import Report, Team, TrialRun
from trainables.training.checkpoints import (
    Superseded,
    begin_attempt,
    load_checkpoint,
    save_checkpoint,
    save_state,
)
from trainables.training.loop import Diverged

CHECKPOINT_SECONDS = 10.0
"""A checkpoint is due after so much work: a killed worker costs no more, and a short trial writes none."""


class LeasedRun:
    """One trial of a lease, from its newest checkpoint to its outcome."""

    def __init__(
        self, lease: Mapping[str, Any], settings: StudySettings, *, team: Team | None = None
    ) -> None:
        self.lease, self.settings, self.team = lease, settings, team or Team()
        self.run: TrialRun | None = None
        self.finished = False
        self._saved_at = time.monotonic()

    def step(self) -> list[Report]:
        """`advance`, with an error turned into the trial's outcome, so that the warm worker lives on."""
        try:
            return self.advance()
        except Superseded:  # a newer attempt has the trial, and whatever this one says is ignored
            self.finished = True
            return []
        except Exception as error:
            self.finished = True
            return [self._failed(error)]

    def advance(self) -> list[Report]:
        """The reports of the next epoch; after a restart, first those that the database lacks."""
        reports = [] if self.run else self._start()
        assert self.run is not None
        if not self.run.finished:
            reports.append(self.run.run_epoch())
            self._save(self.run)
        self.finished = self.run.finished
        return reports

    def _start(self) -> list[Report]:
        torch.set_num_threads(self.settings.threads)
        self.run = TrialRun(self.lease, self.settings, team=self.team)
        if self.team.rank == 0:
            begin_attempt(self.run.directory, self.run.attempt)
        state = load_checkpoint(self.run.directory) if self.run.attempt > 1 else None
        if state is not None:
            self.run.load_state(state)
        lacking = [record for record in self.run.records if record["epoch"] > self.lease["done_epochs"]]
        return [{**record, "attempt": self.run.attempt} for record in lacking]

    def _save(self, run: TrialRun) -> None:
        """Write what must outlive this worker: a checkpoint now and then, the result at the end."""
        if self.team.rank != 0:
            return
        if run.finished:
            save_result(run)
        elif time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
            save_checkpoint(run.directory, run.state(), attempt=run.attempt)
            self._saved_at = time.monotonic()

    def _failed(self, error: Exception) -> Report:
        epoch = self.run.epoch if self.run else 0
        return {
            "trial": self.lease["trial"],
            "attempt": self.lease["attempt"],
            "epoch": epoch,
            "metrics": {},
            "outcome": "failed",
            "reason": reason_of(error),
            "traceback": "".join(traceback.format_exception(error)),
        }


def start_lease(config: Mapping[str, Any], *, team: Team | None = None) -> list[LeasedRun]:
    """The trials of a lease, given as Tune's config; nothing is loaded before their first step."""
    settings = StudySettings(**{**config["settings"], "classes": tuple(config["settings"]["classes"])})
    return [LeasedRun(lease, settings, team=team) for lease in config["leases"]]


def save_result(run: TrialRun) -> None:
    """Write the best epoch's weights (of what trained) and its validation probabilities."""
    best = run.best
    assert best.probabilities is not None
    content = {"trained": best.trained, "depth": run.phase.depth, "epoch": best.epoch, "value": best.value}
    save_state(run.directory / "model.pt", content)
    part = run.parts["val"]
    target = run.directory / "predictions.npz"
    aside = run.directory / ".predictions.npz"
    with aside.open("wb") as file:
        np.savez(
            file, ids=part.ids, labels=part.labels.cpu().numpy(), probabilities=best.probabilities.numpy()
        )
    aside.replace(target)


def reason_of(error: BaseException) -> str:
    """Why a trial failed: diverged, out of memory, data or bug."""
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    return "data" if isinstance(error, OSError) else "bug"
