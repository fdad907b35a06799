"""Activations beyond half precision: their type follows from data and network, whatever is cached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.messages import LeasedTrial, StudySettings
from tests.lone_trial import run_alone
from tests.small_study import make_settings, make_small_study
from trainables.activations import inputs
from trainables.activations.cost_model import CostModel, Cut
from trainables.activations.multi_depth import MultiDepthExtraction
from trainables.activations.shared import open_cache
from trainables.device.memory import FittingSize
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.frozen_prefixes import make_frozen_prefixes
from trainables.model.networks import make_backbone
from trainables.run import TrialRun

CONFIG = {
    "regime": "linear_probe",
    "unfreeze_depth": 0,
    "backbone": "lite0",
    "batch_size": 8,
    "max_epochs": 2,
}
LEASE = LeasedTrial(trial=0, attempt=1, config=CONFIG, done_epochs=0)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    monkeypatch.setattr(inputs, "SMALL_ENTRY", 0)  # all entries count as large
    monkeypatch.setattr(inputs, "_largest_known", {})
    return make_settings(make_small_study(tmp_path), image_size=32)


def scale_prefix(monkeypatch: pytest.MonkeyPatch, largest: float) -> None:
    """Scale a prefix's output so that the largest activation of its first call is this."""
    original, scale = Classifier.prefix_features, 0.0

    def scaled(self: Any, images: Tensor) -> Tensor:
        nonlocal scale
        features = original(self, images)
        scale = scale or largest / float(features.abs().max())
        return features * scale

    monkeypatch.setattr(Classifier, "prefix_features", scaled)


def test_a_trial_beyond_half_precision_is_the_same_cached_and_uncached(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_prefix(monkeypatch, 1e6)
    uncached = replace(settings, cache_gigabytes=0.0)

    found = [run_alone(each, LEASE) for each in (uncached, settings)]

    for uncached_epoch, cached_epoch in zip(*found, strict=True):
        assert uncached_epoch == pytest.approx(cached_epoch, rel=1e-5)
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None and cache.stats().bytes_written > 0


@pytest.mark.parametrize(
    ("largest", "expected"), [(10.0, "float16"), (60_000.0, "float32"), (1e6, "float32")]
)
def test_half_precision_is_chosen_where_the_first_images_stay_well_within_it(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, largest: float, expected: str
) -> None:
    scale_prefix(monkeypatch, largest)

    run = TrialRun(LEASE, settings)

    assert {each.dtype for each in run.inputs.values()} == {expected}


def test_one_pass_finds_the_range_that_each_depth_finds_by_itself(tmp_path: Path) -> None:
    backbone = make_backbone(find_backbone("lite0"), image_size=32).eval()
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cut = Cut(backbone="lite0", depth=1, image_size=32, device="cpu", policy="none", threads=1)
    extraction = MultiDepthExtraction(
        prefixes=make_frozen_prefixes(backbone, (0, 1, 3), image_size=32),
        cut=cut,
        costs=CostModel(tmp_path),
        chance=1.0,
    )

    found = extraction.largest(images, FittingSize(2))

    for depth, value in found.items():
        alone = Classifier(backbone, torch.nn.Identity(), depth=depth).prefix_features(images)
        assert value == pytest.approx(float(alone.abs().max()))
    assert list(found) == [3, 1, 0]
