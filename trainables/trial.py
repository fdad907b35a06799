"""The Tune trainable: a lease on one or more study trials; one step is one epoch of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
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
        """One epoch of every unfinished trial of the lease, as the reports that the search records."""
        from trainables.lease import start_lease

        if self.runs is None:
            self.runs = start_lease(self.lease_config)
        reports = [report for run in self.runs if not run.finished for report in run.step()]
        return {"reports": reports, "done": all(run.finished for run in self.runs)}

    def cleanup(self) -> None:
        self.runs = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: ours carry the attempt and outlive the lease."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Unused, as `save_checkpoint` writes none."""
