"""How images are made square and scaled reaches a trial, its export and the served model unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.tracking.served_model import ServedClassifier
from contract.answer import Combination, MemberRef
from contract.messages import StudySettings
from contract.model_layout import ModelPaths
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.data.augmentation import augment, evaluation_view
from trainables.data.manifest import read_manifest
from trainables.data.policies import names
from trainables.export.parity import load_predictions
from trainables.export.program import make_checked_program


def write_long_images(folder: Path) -> Path:
    """12 bits in 16, four times as long as wide: the class is told by the end at which they are bright."""
    random = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 900, (20, 80))
            pixels[:, slice(0, 12) if name == "left" else slice(68, 80)] += 3000
            Image.fromarray(pixels.astype(np.uint16)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    folder = write_long_images(tmp_path / "long")
    return make_settings(tmp_path, source=folder, fits=("crop", "pad"), deep_range=(0.0, 4095.0, 0.0, 1.0))


def accuracy_of(settings: StudySettings, number: int) -> float:
    lease = make_lease(
        number,
        backbone="linear_pixels",
        regime="linear_probe",
        unfreeze_depth=0,
        optimizer="adam",
        schedule="constant",
        learning_rate=0.01,
        max_epochs=12,
        batch_size=8,
    )
    (leased,) = start_trials(settings, lease)
    while not leased.finished:
        reports = leased.step()
    assert reports[-1].outcome == "complete", reports[-1].traceback
    return max(float(report.metrics["val_accuracy"]) for report in reports if report.metrics)


@pytest.mark.slow
def test_what_a_crop_does_not_show_is_learnt_from_padded_images_and_served_so(
    settings: StudySettings, tmp_path: Path
) -> None:
    padded = replace(settings, fit="pad")
    lease = make_lease(1, backbone="linear_pixels", regime="linear_probe", unfreeze_depth=0)

    of_padded, of_cropped = accuracy_of(padded, 1), accuracy_of(settings, 2)
    target = ModelPaths(tmp_path / "model")
    ref = MemberRef("trial", 1)
    make_checked_program(Combination.single(ref), {ref: lease.config}, padded).write(
        padded, target=target, about={}
    )
    model = ServedClassifier()
    model.load_context(SimpleNamespace(artifacts={"export": str(target.directory)}))
    ids, stored = load_predictions(padded.trial_paths(1))
    manifest = read_manifest(padded.paths.manifest, padded.classes)
    contents = [manifest.paths[number].read_bytes() for number in ids]
    served = model.predict(None, pd.DataFrame({"image": contents}))

    assert of_padded == 1.0 > of_cropped
    rows = np.array([[row[name] for name in padded.classes] for row in served["probabilities"]])
    assert np.abs(rows - stored).max() < 0.02
    assert '"fit": "pad"' in target.card.read_text()


@pytest.mark.parametrize("policy", names())
def test_every_policy_takes_padded_images_as_squashed_ones(policy: str) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8))
    ids = torch.arange(3)

    views = [
        augment(images, ids=ids, epoch=1, policy=policy, size=32, seed=0, fit=fit)  # type: ignore[arg-type]
        for fit in ("pad", "squash")
    ]

    assert torch.equal(*views)
    assert torch.equal(*(evaluation_view(images, size=32, fit=fit) for fit in ("pad", "squash")))  # type: ignore[arg-type]
