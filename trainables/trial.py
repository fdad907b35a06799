"""The Tune trainable: a lease on one or more study trials; one step is one epoch of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
    from trainables.run import TrialRun


class Trial(tune.Trainable):
    """Trains the study trials of one lease on a warm worker.

    `setup` only stores the lease and the first `step` imports torch: while an actor is still importing, Tune
    would hand its trial to another one and start both again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.lease_config = config
        self.runs: list[TrialRun] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next lease; imports, weights and maps stay."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch of every unfinished trial of the lease, as the reports the search records."""
        from trainables.run import run_guarded, start_runs

        if self.runs is None:
            self.runs, reports = start_runs(self.lease_config)
        else:
            reports = []
        for run in self.runs:
            if not run.finished:
                reports += run_guarded(run)
        return {"reports": reports, "done": all(run.finished for run in self.runs)}

    def cleanup(self) -> None:
        self.runs = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: ours carry the attempt and outlive the lease."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Unused, as `save_checkpoint` writes none."""
