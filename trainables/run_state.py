"""What a checkpoint holds of a trial between two epochs, and how a trial goes on from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.training.best import Best, Patience

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
        "trained": run.classifier.trained_state(),
        "optimizer": run.optimizer.state_dict() if run.optimizer else {},
        "average": run.average.state() if run.average else {},
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
    run.classifier.load_trained_state(state["trained"])
    if run.optimizer:
        run.optimizer.load_state_dict(state["optimizer"])
    if run.average:
        run.average.load_state(**state["average"])
    run.schedule.load_state(state["schedule"])
    run.best = Best(**state["best"])
    run.patience = Patience(**state["patience"])
