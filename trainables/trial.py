"""The Tune trainable of a lease: one step runs one epoch of a lone trial, or a second of several."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ray import tune

from contract.messages import make_result
from trainables.device.process_setup import paused_collector

if TYPE_CHECKING:
    from contract.messages import Report
    from trainables.lease import LeasedRun


class Trial(tune.Trainable):
    """Trains the study trials of one lease on a warm worker.

    `setup` only stores the lease and the first `step` imports torch: while an actor is still importing, Tune
    would hand its trial to another one and start both again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.lease_config = config
        self.runs: list[LeasedRun] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next lease; imports, weights and maps stay."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next epochs of the lease's trials, as the reports that the search records."""
        start_lease, take_turns = import_engine()
        if self.runs is None:
            self.runs = start_lease(self.lease_config)
        return make_result(take_turns(self.runs), done=all(run.finished for run in self.runs))

    def cleanup(self) -> None:
        self.runs = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: ours carry the attempt and outlive the lease."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Unused, as `save_checkpoint` writes none."""


@cache
def import_engine() -> tuple[Callable[..., list[LeasedRun]], Callable[..., list[Report]]]:
    """Import torch, timm and all of ours that needs them; returns `start_lease` and `take_turns`."""
    with paused_collector():
        from trainables.lease import start_lease, take_turns
    return start_lease, take_turns
