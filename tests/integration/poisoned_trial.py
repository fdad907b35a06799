"""The engine's trainable where one trial makes a stood-in accelerator useless to its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainables.trial import Trial

POISONOUS = 1


def fail(*_: Any, **__: Any) -> None:
    """What every call of CUDA does in a process behind a failed assertion on the device."""
    raise RuntimeError("CUDA error: device-side assert triggered")


class PoisonedTrial(Trial):
    """From the first attempt at one trial on, no update succeeds in the process any more."""

    def step(self) -> dict[str, Any]:
        [lease] = self.lease_config["trials"]
        if lease["trial"] == POISONOUS and lease["attempt"] == 1:
            import trainables.run

            trainables.run.train_epoch = fail  # type: ignore[assignment]
            place = Path(self.lease_config["settings"]["study_directory"])
            (place / "poisoned").write_text(str(os.getpid()))
        return super().step()
