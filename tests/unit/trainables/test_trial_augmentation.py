"""Whole trials with mixed views or unequal classes train, share, cache and are ranked as they should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.messages import Report, StudySettings
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.activations.cache import ActivationCache
from trainables.activations.cost_model import CostModel
from trainables.images import split_view
from trainables.lease import LeasedRun
from trainables.run import TrialRun

pytestmark = pytest.mark.slow
PROBE = {"regime": "linear_probe", "unfreeze_depth": 0, "weight_decay": 0.0}
MIXED = {"policy": "light", "mix": "cutmix", "mix_share": 0.7}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """A study whose training split has unequal classes."""
    settings = make_settings(tmp_path_factory.mktemp("mixed"), fits=("crop",))
    manifest = Path(settings.study_directory) / "data.csv"
    heading, *lines = manifest.read_text().splitlines()
    moved = [line.replace(",0,train", ",0,test") if int(line.split(",")[0]) % 2 else line for line in lines]
    manifest.write_text("\n".join([heading, *moved]) + "\n")
    return settings


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(settings: StudySettings, number: int = 0, **config: Any) -> LeasedRun:
    lease = make_lease(number, **{**PROBE, **config})
    (leased,) = start_trials(settings, lease)
    return leased


def train(settings: StudySettings, number: int = 0, **config: Any) -> tuple[TrialRun, list[Report]]:
    leased = start(settings, number, **config)
    reports = []
    while not leased.finished:
        reports += leased.step()
    assert leased.run is not None, reports[-1].traceback
    assert reports[-1].outcome == "complete", reports[-1].traceback
    return leased.run, reports


def losses(reports: list[Report]) -> list[float]:
    return [report.metrics["train_loss"] for report in reports]


def test_a_mixed_trial_computes_the_same_with_and_without_the_cache(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CostModel, "worth_caching", lambda *args, **kwargs: True)

    cached, with_cache = train(settings, **MIXED)
    uncached, without = train(replace(settings, cache_gigabytes=0.0), **MIXED)

    assert cached.inputs["train"].cache is not None and uncached.inputs["train"].cache is None
    np.testing.assert_allclose(losses(with_cache), losses(without), rtol=2e-3)


def test_another_trial_of_the_same_mixed_views_computes_none_of_them(
    settings: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CostModel, "worth_caching", lambda *args, **kwargs: True)
    settings = replace(settings, cache_directory=str(tmp_path))
    train(settings, 1, **MIXED)
    computed: list[int] = []
    monkeypatch.setattr(split_view, "mix_views", lambda *args: computed.append(1))

    train(settings, 2, **MIXED, learning_rate=1e-2, dropout=0.3)

    assert not computed


def test_mixing_changes_what_is_trained_on_but_not_what_is_validated_on(settings: StudySettings) -> None:
    run, _ = train(settings, **MIXED)

    assert run.inputs["train"].view.mix.kind == "cutmix"
    assert not run.inputs["val"].view.is_random


@pytest.mark.parametrize(
    "config", [MIXED, {"sampler": "balanced"}, {"minority_policy": "strong", "policy": "light"}]
)
def test_a_trial_replayed_from_the_same_seed_reports_the_same(
    settings: StudySettings, config: dict[str, Any]
) -> None:
    _, first = train(settings, 3, **config)
    _, second = train(settings, 3, **config)

    assert losses(first) == losses(second)


def test_oversampling_lets_a_trial_see_every_class_equally_often(settings: StudySettings) -> None:
    plain, _ = train(settings, max_epochs=1)
    larger, _ = train(settings, max_epochs=1, minority_policy="medium")

    counts = torch.bincount(plain.splits["train"].labels)
    assert counts[0] < counts[1] == counts[2]
    assert torch.bincount(larger.splits["train"].labels).tolist() == [int(counts[1])] * 3
    assert torch.equal(larger.splits["val"].labels, plain.splits["val"].labels)


def test_class_weights_reach_the_loss(settings: StudySettings) -> None:
    run, weighted = train(settings, max_epochs=1, class_weights="balanced")
    _, plain = train(settings, max_epochs=1)

    assert run.class_weights is not None
    assert run.class_weights.argmax() == 0  # the class that lost half of its images
    assert losses(weighted) != losses(plain)


@pytest.mark.parametrize("metric", ["val_macro_f1", "val_balanced_accuracy", "val_auroc"])
def test_a_trial_is_ranked_by_the_metric_of_the_search(settings: StudySettings, metric: str) -> None:
    run, reports = train(replace(settings, metric=metric), max_epochs=3, learning_rate=1e-2)

    values = [report.metrics[metric] for report in reports]
    assert run.kept.value == max(values)
    assert run.kept.epoch == values.index(max(values)) + 1


def test_the_cache_keeps_mixed_and_plain_views_apart(
    settings: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CostModel, "worth_caching", lambda *args, **kwargs: True)
    keys: list[str] = []
    fetch = ActivationCache.fetch

    def note(cache: ActivationCache, key: Any, **options: Any) -> Any:
        keys.append(json.dumps(asdict(key), sort_keys=True))
        return fetch(cache, key, **options)

    monkeypatch.setattr(ActivationCache, "fetch", note)
    settings = replace(settings, cache_directory=str(tmp_path))
    for number, mix in enumerate(
        ({}, {"mix": "mixup"}, {"mix": "cutmix"}, {"mix": "cutmix", "mix_share": 0.5})
    ):
        train(settings, number, max_epochs=1, policy="light", **mix)

    training = {key for key in keys if "light" in key}
    assert len(training) == 4
