"""A trainable that sleeps instead of training: what it reports comes from made-up learning curves.

It imports neither torch nor Optuna, so that 64 of its workers fit on a small machine.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from ray import tune

from benchmarks.simulated.learning_curves import Curves

SPREAD = 0.3
"""Epochs take this much longer or shorter than the average, by trial: results must not arrive in step."""


class SimulatedTrial(tune.Trainable):
    """Settings: `seed` of the task, `epoch_seconds` on average."""

    def setup(self, config: dict[str, Any]) -> None:
        self.leased, self.settings = config["trials"][0], config["settings"]
        self.curves = Curves(self.settings["seed"])
        self.epoch = self.leased["done_epochs"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        began = time.time()
        planned = find_epoch_seconds(self.leased["trial"], average=self.settings["epoch_seconds"])
        time.sleep(planned)
        self.epoch += 1
        config = self.leased["config"]
        accuracy = self.curves.accuracy(config, self.epoch)
        metrics = {"val_accuracy": accuracy, "val_loss": 1 - accuracy, "epoch_seconds": planned}
        report = {
            "trial": self.leased["trial"],
            "attempt": self.leased["attempt"],
            "epoch": self.epoch,
            "metrics": metrics | {"began": began, "process": float(os.getpid())},
            "outcome": "complete" if self.epoch >= config["max_epochs"] else None,
        }
        return {"reports": [report], "done": report["outcome"] is not None}


def find_epoch_seconds(trial: int, *, average: float) -> float:
    """The same for a trial each time, within SPREAD of the average."""
    return average * float(1 + np.random.default_rng(trial).uniform(-SPREAD, SPREAD))
