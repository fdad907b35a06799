"""A study of drawn images, and trials of it that run in this process without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contract.messages import LeasedTrial, StudySettings
from trainables.activations.cost_model import CostModel
from trainables.data.manifest import Manifest
from trainables.data.views import storage_size
from trainables.device.process_setup import prepare_processor
from trainables.run import TrialRun
from trainables.training.loop import TrainResult, cut_batches, train_epoch

CLASSES = tuple(f"class {number}" for number in range(10))
VAL_SHARE = 0.125

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the trials of a table have in common."""

    folder: Path
    """The study's directory, which holds images, cache and results."""

    device: torch.device
    num_images: int
    """Training images."""

    image_size: int
    batch_size: int
    threads: int
    """CPU threads of a trial."""

    def settings(self, *, compiled: bool = False, share: float = 1.0, num_trials: int = 1) -> StudySettings:
        """Settings of the study.

        Args:
            share: the share of the GPU that a trial has.
            num_trials: trials that read the same activations.
        """
        return StudySettings(
            study_directory=str(self.folder),
            classes=CLASSES,
            weights="random",  # nothing is downloaded, and the weights' values change no speed
            image_size=self.image_size,
            seed=0,
            metric="val_accuracy",
            maximize=True,
            cache_directory=str(self.folder / "cache"),
            cache_gigabytes=20.0,
            num_trials=num_trials,
            expected_reuse=1.0,
            threads=self.threads,
            compile=compiled,
            gpus_per_worker=share if self.device.type == "cuda" else 0.0,
        )

    def config(self, backbone: str, depth: int | str, **others: Any) -> dict[str, Any]:
        """Hyperparameters of a trial; its updates are so small that no loss diverges, however many."""
        return {
            "backbone": backbone,
            "regime": "linear_probe" if depth == 0 else "finetune",
            "unfreeze_depth": depth,
            "batch_size": self.batch_size,
            "learning_rate": 1e-6,
            "max_epochs": 10**6,
            **others,
        }


def write_study(task: Task) -> None:
    """Write images of coarse noise, as large as the image store keeps them, and the study's table."""
    random = np.random.default_rng(0)
    num_val = max(len(CLASSES), round(VAL_SHARE * task.num_images))
    count, side = task.num_images + num_val, storage_size(task.image_size, "crop")
    pictures = task.folder / "pictures"
    pictures.mkdir(parents=True)
    paths = tuple(pictures / f"{number}.jpg" for number in range(count))
    for path in paths:
        noise = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side)).save(path)
    manifest = Manifest(
        paths=paths,
        labels=np.arange(count, dtype=np.int64) % len(CLASSES),
        splits=np.array(["train"] * task.num_images + ["val"] * num_val),
        classes=CLASSES,
        contents="",
        fingerprint="",
        groups=np.arange(count),
        digests=("",) * count,
    )
    manifest.write_csv(task.folder / "data.csv")


@contextmanager
def caching(wanted: bool) -> Iterator[None]:
    """Let trials that start within this context cache their activations, or not, whatever it costs."""
    with patch.object(CostModel, "worth_caching", lambda *_, **__: wanted):
        yield


def start_trial(settings: StudySettings, config: dict[str, Any], *, number: int = 0) -> TrialRun:
    """Build a trial as a lease does."""
    prepare_processor(settings.threads)
    return TrialRun(LeasedTrial(trial=number, attempt=1, config=config, done_epochs=0), settings)


def epoch_batches(run: TrialRun) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the trial's first epoch, in the order of its images; the same at every call."""
    cut = cut_batches(np.arange(len(run.splits["train"])), size=run.config.batch_size)
    return run.inputs["train"].batches(cut, epoch=1)


def train(run: TrialRun, batches: Iterator[tuple[Tensor, Tensor]] | Batches) -> TrainResult:
    """Train an epoch of the trial by its own loop.

    Raises:
        Diverged: a loss is not finite.
    """
    assert run.updates is not None
    run.classifier.train()
    generator = torch.Generator().manual_seed(0)
    return train_epoch(run.updates, batches, schedule=run.schedule, first_step=0, generator=generator)
