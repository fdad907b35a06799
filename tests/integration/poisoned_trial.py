"""The engine's trainable with one trial that makes a simulated accelerator useless to its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainables.trial import Trial

POISONOUS = 1


def fail(*_: Any, **__: Any) -> None:
    """Raise what every call of CUDA raises in a process after a failed assertion on the device."""
    raise RuntimeError("CUDA error: device-side assert triggered")


class PoisonedTrial(Trial):
    """After the first attempt at trial POISONOUS, no update succeeds in its process any more."""

    def step(self) -> dict[str, Any]:
        [lease] = self.lease_config["trials"]
        if lease["trial"] == POISONOUS and lease["attempt"] == 1:
            import trainables.run

            trainables.run.train_epoch = fail  # type: ignore[assignment]
            place = Path(self.lease_config["settings"]["study_directory"])
            (place / "poisoned").write_text(str(os.getpid()))
        return super().step()
