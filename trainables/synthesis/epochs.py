"""Runs a GAN's training epoch by epoch: its state is saved, its samples are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.files import write_aside
from trainables.synthesis.features import Features, measure_features
from trainables.synthesis.networks import Generator
from trainables.synthesis.quality import kernel_distance
from trainables.synthesis.training import GanTraining, generate
from trainables.training.checkpoints import load_state

UPDATES = 250
"""Updates of an epoch, whatever the number of images: of few images a pass would be over in a second."""

SAVE_SECONDS = 60.0
"""Time between two saved states within an epoch."""

MOST_WATCHED = 1000
"""Most real images that an epoch's samples are compared with."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When the training ends."""

    epochs: int
    patience: int
    """Epochs without a lower distance after which it ends early; 0 = never."""

    seconds: float | None = None
    """No epoch begins that would probably end later, counted over all runs of the command."""


@dataclass(kw_only=True)
class Progress:
    """What the epochs so far have brought."""

    seconds: float = 0.0
    """Time that the training has taken, over all runs of the command."""

    distances: list[float] = field(default_factory=list)
    """Kernel distance of each epoch's samples from real images."""

    best: dict[str, Tensor] = field(default_factory=dict)
    """Averaged generator of the epoch with the lowest distance."""

    @property
    def best_epoch(self) -> int:
        """Number of that epoch, counted from 1; 0 before the first."""
        return int(np.argmin(self.distances)) + 1 if self.distances else 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """The real images that every epoch's samples are compared with."""

    features: Features
    labels: NDArray[np.int64]


class GanRun:
    """A training in a folder, which goes on where the last run of the same command was stopped."""

    def __init__(
        self,
        training: GanTraining,
        checkpoint: Path,
        watched: Watched,
        *,
        on_epoch: Callable[[int, Generator], None],
        say: Say,
    ) -> None:
        """Take over the state that an earlier run saved, if there is one.

        Args:
            on_epoch: called with the number of an epoch that has ended and the averaged generator.
        """
        self.training, self.progress = training, Progress()
        self._checkpoint, self._watched = checkpoint, watched
        self._on_epoch, self._say = on_epoch, say
        saved = load_state(checkpoint)
        if saved is not None:
            training.resume(saved["training"])
            self.progress = Progress(**saved["progress"])
            say(f"going on after update {training.step:,}")

    def run(self, limits: Limits) -> str:
        """Train until a limit is reached, and say which one it was."""
        while not (reason := self._reached(limits)):
            self._run_epoch(limits)
        return reason

    def best_generator(self) -> Generator:
        """The averaged generator of the best epoch."""
        best = deepcopy(self.training.average)
        best.load_state_dict(self.progress.best)
        return best

    def _reached(self, limits: Limits) -> str:
        done = len(self.progress.distances)
        if done >= limits.epochs:
            return f"all {limits.epochs} epochs are done"
        if limits.patience and done - self.progress.best_epoch >= limits.patience:
            return f"no better for {limits.patience} epochs"
        if limits.seconds is not None and done:
            expected = self.progress.seconds * (done + 1) / done
            if expected > limits.seconds:
                return "the time is up"
        return ""

    def _run_epoch(self, limits: Limits) -> None:
        number = len(self.progress.distances) + 1
        began = saved = time.monotonic()
        losses = []
        while self.training.step < number * UPDATES:
            losses.append(torch.stack(self.training.update()))
            now = time.monotonic()
            if now - saved > SAVE_SECONDS:
                self.progress.seconds += now - began
                began = saved = now
                self._save(losses[-1])
                share = self.training.step / UPDATES - number + 1
                self._say(f"epoch {number}/{limits.epochs}: {share:.0%}, {self.progress.seconds:.0f} s")
        self._judge()
        self.progress.seconds += time.monotonic() - began
        self._save(losses[-1] if losses else torch.zeros(2))
        self._on_epoch(number, self.training.average)
        made, judged = torch.stack(losses).mean(dim=0).tolist() if losses else (0.0, 0.0)
        self._say(
            f"epoch {number}/{limits.epochs}: losses {made:.2f} (generator), {judged:.2f} (discriminator); "
            f"distance {self.progress.distances[-1]:.4f} (best {min(self.progress.distances):.4f} in epoch "
            f"{self.progress.best_epoch}); {self.progress.seconds:.0f} s"
        )

    def _judge(self) -> None:
        """Measure samples of the classes of the watched images, always from the same latent vectors."""
        made = generate(self.training.average, self._watched.labels, seed=self.training.seed, purpose="watch")
        features = measure_features(made, device=self.training.device.type)
        self.progress.distances.append(kernel_distance(self._watched.features, features))
        if self.progress.best_epoch == len(self.progress.distances):
            self.progress.best = {
                name: value.clone() for name, value in self.training.average.state_dict().items()
            }

    def _save(self, losses: Tensor) -> None:
        self.training.check(losses)
        state: dict[str, Any] = {"training": self.training.state(), "progress": vars(self.progress)}
        with write_aside(self._checkpoint) as part:
            torch.save(state, part)


def choose_watched(
    labels: NDArray[np.int64], is_held: NDArray[np.bool_], *, fewest: int = 100
) -> NDArray[np.int64]:
    """Positions of the images to watch: those held back if there are `fewest` of them, else of all."""
    rows = np.flatnonzero(is_held) if is_held.sum() >= fewest else np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(rows))[:MOST_WATCHED]
    return np.sort(rows[order])
