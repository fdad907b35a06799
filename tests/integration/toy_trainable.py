"""A trainable without training: the study's machinery is tested with it."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune


class ToyTrial(tune.Trainable):
    """Accuracy is a formula of the learning rate and the epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        self.leased = config["leases"][0]
        self.settings = config["settings"]
        self.epoch = self.leased["done_epochs"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.settings.get("seconds", 0.0))
        self.epoch += 1
        config, number = self.leased["config"], self.leased["trial"]
        if self.leased["attempt"] == 1 and number == self.settings.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.settings.get("raises"):
            raise KeyError("no such layer")
        accuracy = toy_accuracy(config["learning_rate"], self.epoch)
        if "log" in self.settings:
            with Path(self.settings["log"]).open("a") as file:
                file.write(f"{number} {self.leased['attempt']} {self.epoch}\n")
        done = self.epoch >= config["epochs"]
        report = {"trial": number, "attempt": self.leased["attempt"], "epoch": self.epoch}
        report |= {"metrics": {"val_accuracy": accuracy, "val_loss": 1 - accuracy}}
        report |= {"outcome": "complete" if done else None, "reason": None, "traceback": None}
        return {"reports": [report], "done": done}


def toy_accuracy(learning_rate: float, epoch: int) -> float:
    return (1 - 0.2 * abs(math.log10(learning_rate) + 3)) * (1 - 0.5**epoch)
