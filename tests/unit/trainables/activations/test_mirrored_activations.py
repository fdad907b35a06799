"""Where views are images and mirrored images, each is computed once for all epochs, as without the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.messages import StudySettings
from tests.lone_trial import Metrics, run_alone
from tests.tiny_data import make_lease, make_settings
from tests.unit.trainables.images.test_split_view import make_split, make_view
from trainables.activations.shared import open_cache
from trainables.data.policies import POLICIES
from trainables.images.split_view import ViewSettings, oversampled

EPOCHS = 5
CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    return make_settings(tmp_path, fits=("crop",), expected_reuse=0.9)


def run_trial(settings: StudySettings, number: int, *, policy: str, depth: int) -> Metrics:
    regime = "finetune" if depth else "linear_probe"
    lease = make_lease(
        number,
        unfreeze_depth=depth,
        regime=regime,
        policy=policy,
        max_epochs=EPOCHS,
    )
    return run_alone(settings, lease)


def num_computed(settings: StudySettings) -> int:
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None
    return cache.stats().chunks_computed


@pytest.mark.parametrize("policy", [name for name in POLICIES if POLICIES[name].only_mirrors])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_a_view_is_the_image_mirrored_as_drawn(policy: str, fit: str) -> None:
    split, view = oversampled(make_split()), make_view(policy=policy, fit=fit)
    everything, seen = np.arange(len(split)), set()

    for epoch in range(1, 6):
        images = view.images(split, everything, epoch=epoch, device=CPU)
        ways = view.mirrors(split, everything, epoch=epoch)
        for way in np.unique(ways).tolist():
            mirrored = view.with_mirror(way).images(split, everything, epoch=0, device=CPU)
            assert torch.equal(images[ways == way], mirrored[ways == way])
        seen |= set(ways.tolist())

    assert seen == (set(range(4)) if policy == "flips" else {0, 1})


def test_the_policies_that_only_mirror_are_those_two() -> None:
    assert {name for name, policy in POLICIES.items() if policy.only_mirrors} == {"flip", "flips"}
    assert not make_view(policy="flip", minority_policy="light").only_mirrors
    assert not make_view(policy="flip", is_blank=True).only_mirrors


@pytest.mark.parametrize(("policy", "ways"), [("flip", 2), ("flips", 4)])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_trial_computes_the_same_as_with_one_pass_for_each_epoch(
    settings: StudySettings,
    tmp_path: Path,
    policy: str,
    ways: int,
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_trial(settings, 0, policy="none", depth=depth)
    before = num_computed(settings)

    together = run_trial(settings, 1, policy=policy, depth=depth)

    chunks = num_computed(settings) - before
    assert 0 < chunks <= (ways - 1) * before, "images as they are came from the trial before"
    monkeypatch.setattr(ViewSettings, "only_mirrors", False)
    other = replace(settings, cache_directory=str(tmp_path / "other"))
    assert run_trial(other, 1, policy=policy, depth=depth) == together != plain
