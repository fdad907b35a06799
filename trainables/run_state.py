"""What a checkpoint holds of a trial between two epochs, and how a trial goes on from it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.training.early_stopping import Best, Patience

if TYPE_CHECKING:
    from trainables.run import TrialRun


FORMAT = 2
"""Of a checkpoint; to be raised whenever its content changes."""

logger = logging.getLogger(__name__)


def state_of(run: TrialRun) -> dict[str, Any]:
    """Tensors, numbers and strings."""
    return {
        "format": FORMAT,
        "attempt": run.attempt,
        "epoch": run.epoch,
        "step": run.step,
        "records": json.dumps(run.records),
        **_trained_state(run),
        "images_at_once": run.updates.micro_batch.size if run.updates else None,
        "schedule": run.schedule.state(),
        "best": asdict(run.best),
        "patience": run.patience.state(),
    }


def continue_from(run: TrialRun, state: Mapping[str, Any]) -> None:
    """Go on behind the epoch of a checkpoint; the trial begins anew where another version has written it."""
    if state.get("format") != FORMAT:
        logger.warning("trial %d begins anew: another version has written its checkpoint", run.number)
        return
    run.epoch = int(state["epoch"])
    run.enter_phase(next(phase for phase in run.phases if run.epoch <= phase.last_epoch))
    run.step = int(state["step"])
    run.records = json.loads(state["records"])
    undo_training(run, state)
    if run.updates and state["images_at_once"] != run.updates.micro_batch.size:
        run.updates.micro_batch.reduce_to(state["images_at_once"])
    run.schedule.load_state(state["schedule"])
    run.best = Best(**state["best"])
    run.patience = Patience(**state["patience"])


def keep_training(run: TrialRun) -> dict[str, Any]:
    """A copy of what an epoch's updates change, for `undo_training`."""
    return copy.deepcopy(_trained_state(run))


def undo_training(run: TrialRun, state: Mapping[str, Any]) -> None:
    """Set weights, optimizer and average to those of a state."""
    run.classifier.load_trained_state(state["trained"])
    if run.optimizer:
        run.optimizer.load_state_dict(state["optimizer"])
    if run.average:
        run.average.load_state(**state["average"])


def _trained_state(run: TrialRun) -> dict[str, Any]:
    return {
        "trained": run.classifier.trained_state(),
        "optimizer": run.optimizer.state_dict() if run.optimizer else {},
        "average": run.average.state() if run.average else {},
    }
