"""A trial that runs out of memory goes on with fewer images at once, and computes what it would have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.lone_trial import MEASURED
from tests.tiny_data import make_lease, make_settings
from trainables.lease import LeasedRun
from trainables.run import TrialRun
from trainables.settings import StudySettings
from trainables.training import memory

CONFIG: dict[str, Any] = {"unfreeze_depth": 1, "dropout": 0.3, "policy": "light", "batch_size": 16}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    memory._largest_known.clear()
    yield
    memory._largest_known.clear()


def narrow(module: nn.Module, most: int) -> list[int]:
    """From now on more images than `most` at once ask for more memory than any machine has; their counts."""
    refused: list[int] = []

    def check(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            refused.append(len(inputs[0]))
            torch.empty(2**50)

    module.register_forward_pre_hook(check)
    return refused


def run_epochs(run: TrialRun) -> list[dict[str, float]]:
    metrics = []
    while not run.finished:
        metrics.append(run.run_epoch()["metrics"])
    return [{name: value for name, value in epoch.items() if name not in MEASURED} for epoch in metrics]


def test_a_trial_that_does_not_fit_computes_what_the_same_one_in_micro_batches_does(
    settings: StudySettings,
) -> None:
    asked = run_epochs(TrialRun(make_lease(1, **CONFIG, micro_batch_size=4), settings))
    memory._largest_known.clear()
    run = TrialRun(make_lease(1, **CONFIG), settings)
    refused = narrow(run.classifier.head, most=4)

    found = run_epochs(run)

    assert refused[:2] == [16, 8]
    assert found[0]["images_at_once"] == 4
    validation = {name for name in found[0] if name.startswith("val_")}  # in smaller parts too
    for epoch, expected in zip(found, asked, strict=True):
        assert {n: v for n, v in epoch.items() if n not in validation} == {
            n: v for n, v in expected.items() if n not in validation
        }
        assert [epoch[name] for name in validation] == pytest.approx([expected[n] for n in validation])


def test_a_prefix_that_does_not_fit_is_computed_in_smaller_chunks(settings: StudySettings) -> None:
    config = CONFIG | {"policy": "medium"}  # a view that no other test has cached
    run = TrialRun(make_lease(2, **config), settings)
    refused = narrow(run.classifier.prefix, most=10)

    found = run_epochs(run)
    memory._largest_known.clear()
    expected = run_epochs(TrialRun(make_lease(2, **config), replace(settings, cache_gigabytes=0.0)))

    assert refused
    assert found[0]["images_at_once"] == 16
    assert found[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=1e-3)


def test_where_not_one_image_fits_the_trial_fails_as_out_of_memory(settings: StudySettings) -> None:
    leased = LeasedRun(make_lease(3, **CONFIG), settings)
    leased.run = TrialRun(leased.lease, settings)
    narrow(leased.run.classifier.head, most=0)

    [report] = leased.step()

    assert (report["outcome"], report["reason"]) == ("failed", "out of memory")
    assert leased.run is None, "what it held is given back"
