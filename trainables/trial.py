"""The Tune trainable of a lease: a step is one epoch of a lone trial, or a second of several or of probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ray import tune

from contract.messages import make_result
from contract.probes import make_probe_result
from trainables.device.process_setup import paused_collector

if TYPE_CHECKING:
    from contract.messages import Report
    from contract.probes import ProbeReport
    from trainables.lease import LeasedRun
    from trainables.probes import ProbeRun


IDLE_SECONDS = 0.02
"""Pause between two looks for whether the search lets a worker go that has nothing to do."""


class Trial(tune.Trainable):
    """Trains the study trials, or the probes, of one lease on a warm worker.

    `setup` only stores the lease and the first `step` imports torch: while an actor is still importing, Tune
    would hand its trial to another one and start both again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.lease_config = config
        self.runs: list[LeasedRun] | None = None
        self.probes: list[ProbeRun] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next lease; imports, weights and maps stay."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next epochs of the lease's trials, or its next probes, as the search records them.

        After the last one it is asked again where the worker shall wait for the start of others.
        """
        engine = import_engine()
        if self.lease_config.get("probes"):
            if self.probes is None:
                self.probes = engine.start_probes(self.lease_config)
            if all(probe.finished for probe in self.probes):
                time.sleep(IDLE_SECONDS)
            ended = engine.take_probe_turns(self.probes)
            return make_probe_result(ended, over=all(probe.finished for probe in self.probes))
        if self.runs is None:
            self.runs = engine.start_lease(self.lease_config)
        if all(run.finished for run in self.runs):
            time.sleep(IDLE_SECONDS)
        return make_result(engine.take_turns(self.runs), over=all(run.finished for run in self.runs))

    def cleanup(self) -> None:
        self.runs = self.probes = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: ours carry the attempt and outlive the lease."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Unused, as `save_checkpoint` writes none."""


class Engine(NamedTuple):
    """What runs a lease, in a process that has imported torch."""

    start_lease: Callable[..., list[LeasedRun]]
    take_turns: Callable[..., list[Report]]
    start_probes: Callable[..., list[ProbeRun]]
    take_probe_turns: Callable[..., list[ProbeReport]]


@cache
def import_engine() -> Engine:
    """Import torch, timm and all of ours that needs them."""
    with paused_collector():
        from trainables.lease import start_lease, take_turns
        from trainables.probes import start_probes, take_probe_turns
    return Engine(start_lease, take_turns, start_probes, take_probe_turns)
