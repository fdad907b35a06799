"""A trainable that computes no training: its accuracy is a formula, so the search around it can be tested."""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune

from contract.messages import Lease, LeasedTrial, Outcome, Report, make_result
from contract.probes import ProbeReport, make_probe_result


class ToyTrial(tune.Trainable):
    """Its settings are all optional: `seconds` of an epoch; `log`, a file of the epochs that ran; `started`,
    a folder with a file for each process that has begun an epoch; and the trials that shall fail, by number:
    `dies`, `raises`, `fills_disk`; and `probe_dies`, the probe that ends its process at every try.
    """

    def setup(self, config: dict[str, Any]) -> None:
        lease = Lease.from_config(config)
        self.trials, self.probes = lease.trials, list(lease.probes)
        self.settings = config["settings"]
        self.epochs = {leased.trial: leased.done_epochs for leased in self.trials}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.probes:
            return self.run_probe()
        if "started" in self.settings:
            (Path(self.settings["started"]) / str(os.getpid())).touch()
        time.sleep(self.settings.get("seconds", 0.0))
        going = [leased for leased in self.trials if self.epochs[leased.trial] < last_epoch(leased)]
        reports = [self.run_epoch(leased) for leased in going]
        done = all(self.epochs[leased.trial] >= last_epoch(leased) for leased in self.trials)
        return make_result(reports, over=done)

    def run_probe(self) -> dict[str, Any]:
        leased = self.probes.pop(0)
        if leased.probe == self.settings.get("probe_dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        accuracy = toy_accuracy(leased.config["learning_rate"], 2)
        metrics = {"val_accuracy": accuracy, "val_loss": 1 - accuracy}
        report = ProbeReport(probe=leased.probe, metrics=metrics, seconds=0.1)
        return make_probe_result([report], over=not self.probes)

    def run_epoch(self, leased: LeasedTrial) -> Report:
        config, number = leased.config, leased.trial
        self.epochs[number] += 1
        epoch = self.epochs[number]
        if leased.attempt == 1 and number == self.settings.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.settings.get("fills_disk"):
            raise OSError(errno.ENOSPC, "no space is left on the study's disk")
        if number == self.settings.get("raises"):
            raise KeyError("no such layer")
        accuracy = toy_accuracy(config["learning_rate"], epoch)
        if "log" in self.settings:
            with Path(self.settings["log"]).open("a") as file:
                file.write(f"{number} {leased.attempt} {epoch}\n")
        return Report(
            trial=number,
            attempt=leased.attempt,
            epoch=epoch,
            metrics={"val_accuracy": accuracy, "val_loss": 1 - accuracy},
            outcome=Outcome.COMPLETE if epoch >= config["max_epochs"] else None,
        )


def last_epoch(leased: LeasedTrial) -> int:
    return int(leased.until_epoch or leased.config["max_epochs"])


def toy_accuracy(learning_rate: float, epoch: int) -> float:
    return (1 - 0.2 * abs(math.log10(learning_rate) + 3)) * (1 - 0.5**epoch)
