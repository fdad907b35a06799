"""A trainable that sleeps instead of training, and reports made-up learning curves.

It imports neither torch nor Optuna, so that 64 of its workers fit on a small machine.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from ray import tune

from benchmarks.simulated.learning_curves import Curves
from contract.messages import Lease, Outcome, Report, make_result

SPREAD = 0.3
"""Epochs of a trial take up to this share longer or shorter than the average, so that results do not arrive
at the same moment."""


class SimulatedTrial(tune.Trainable):
    """Settings: `seed` of the task, and `epoch_seconds`, the average length of an epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        [self.leased] = Lease.from_config(config).trials
        self.settings = config["settings"]
        self.curves = Curves(self.settings["seed"])
        self.epoch = self.leased.done_epochs

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        began = time.time()
        planned = find_epoch_seconds(self.leased.trial, average=self.settings["epoch_seconds"])
        time.sleep(planned)
        self.epoch += 1
        config = self.leased.config
        accuracy = self.curves.accuracy(config, self.epoch)
        metrics = {"val_accuracy": accuracy, "val_loss": 1 - accuracy, "epoch_seconds": planned}
        is_over = self.epoch >= config["max_epochs"]
        report = Report(
            trial=self.leased.trial,
            attempt=self.leased.attempt,
            epoch=self.epoch,
            metrics=metrics | {"began": began, "process": float(os.getpid())},
            outcome=Outcome.COMPLETE if is_over else None,
        )
        return make_result([report], over=is_over)


def find_epoch_seconds(trial: int, *, average: float) -> float:
    """Seconds of each epoch of the trial: the same every time, within SPREAD of the average."""
    return average * float(1 + np.random.default_rng(trial).uniform(-SPREAD, SPREAD))
