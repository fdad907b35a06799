"""One pass over the images gives the activations of several depths, bit for bit those of single passes."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.messages import StudySettings
from contract.trial_config import TrialConfig
from tests.lone_trial import Metrics, run_alone
from tests.tiny_data import make_lease, make_settings
from trainables.activations.shared import open_cache
from trainables.batch_groups import expect_reuse
from trainables.model.backbones import find_backbone
from trainables.model.classifier import Classifier
from trainables.model.frozen_prefixes import make_frozen_prefixes
from trainables.model.networks import make_backbone

DEPTHS = (0, 1, 3)


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    return make_settings(tmp_path, fits=("crop",), shared_depths=DEPTHS, expected_reuse=0.9)


def run_trial(settings: StudySettings, depth: int) -> Metrics:
    regime = "finetune" if depth else "linear_probe"
    lease = make_lease(depth, unfreeze_depth=depth, regime=regime, policy="light")
    return run_alone(settings, lease)


def num_computed(settings: StudySettings) -> int:
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None
    return cache.stats().chunks_computed


def test_one_pass_gives_what_each_prefix_gives() -> None:
    backbone = make_backbone(find_backbone("lite0"), image_size=64).eval()
    images = torch.rand(5, 3, 64, 64)

    outputs = dict(make_frozen_prefixes(backbone, (0, 2, "all", 1, 99, 7), image_size=64).outputs(images))

    assert list(outputs) == [7, 2, 1, 0]
    for depth, rows in outputs.items():
        alone = Classifier(backbone, torch.nn.Identity(), depth=depth)
        assert torch.equal(rows, alone.prefix_features(images))


def test_one_pass_gives_the_same_where_only_some_prefixes_can_be_folded() -> None:
    """This random network amplifies rounding: folded as a whole it differs too much, its prefixes do not."""
    backbone = make_backbone(find_backbone("efficientnet_v2_s"), image_size=128).eval()
    backbone = backbone.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    outputs = dict(make_frozen_prefixes(backbone, (0, 2, 4), image_size=128).outputs(images))

    assert outputs
    for depth, rows in outputs.items():
        alone = Classifier(backbone, torch.nn.Identity(), depth=depth)
        assert torch.equal(rows, alone.prefix_features(images)), depth


def test_activations_of_other_depths_are_computed_in_the_same_pass(settings: StudySettings) -> None:
    run_trial(settings, 1)
    before = num_computed(settings)

    run_trial(settings, 0)
    run_trial(settings, 3)

    assert before > 0 and num_computed(settings) == before


def test_a_trial_computes_the_same_with_and_without_other_depths(
    settings: StudySettings, tmp_path: Path
) -> None:
    alone = replace(settings, shared_depths=(), cache_directory=str(tmp_path / "other"))

    together = [run_trial(settings, depth) for depth in DEPTHS]

    assert together == [run_trial(alone, depth) for depth in DEPTHS]


def test_expected_reuse_is_the_chance_that_two_trials_read_the_same() -> None:
    fields = [field.name for field in dataclass_fields(TrialConfig)]
    config = dict.fromkeys(fields, "x")
    depths = (0, 0, 2, "all")

    found = expect_reuse([{**config, "unfreeze_depth": depth} for depth in depths])

    assert found.share == (2**2 + 1 + 1) / 4**2
    assert found.depths == (0, 2, "all")
