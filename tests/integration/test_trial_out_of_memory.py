"""A trial that runs out of memory goes on with fewer images at once, and computes what it would have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from contract.messages import StudySettings
from tests.lone_trial import MEASURED
from tests.tiny_data import make_lease, make_settings
from trainables.activations.shared import drop_backbones
from trainables.device import memory
from trainables.lease import LeasedRun
from trainables.run import TrialRun

CONFIG: dict[str, Any] = {"unfreeze_depth": 1, "dropout": 0.3, "policy": "light", "batch_size": 16}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(autouse=True)
def without_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones that other tests have left in this process would be freed ahead of anything else."""
    monkeypatch.setattr(memory, "_reserves", [])


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
        metrics.append(run.run_epoch().metrics)
    return [{name: value for name, value in epoch.items() if name not in MEASURED} for epoch in metrics]


def test_a_trial_that_does_not_fit_computes_what_the_same_one_in_micro_batches_does(
    settings: StudySettings,
) -> None:
    asked = run_epochs(TrialRun(make_lease(1, **CONFIG, micro_batch_size=4), settings))
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
    expected = run_epochs(TrialRun(make_lease(2, **config), replace(settings, cache_gigabytes=0.0)))

    assert refused
    assert found[0]["images_at_once"] == 16
    assert found[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=1e-3)


def test_where_not_one_image_fits_the_trial_fails_as_out_of_memory(settings: StudySettings) -> None:
    leased = LeasedRun(make_lease(3, **CONFIG), settings)
    leased.run = TrialRun(leased.leased, settings)
    narrow(leased.run.classifier.head, most=0)

    [report] = leased.step()

    assert (report.outcome, report.reason) == ("failed", "out of memory")
    assert leased.run is None, "what it held is given back"


def test_a_continued_trial_goes_on_with_the_size_that_fitted(settings: StudySettings) -> None:
    run = TrialRun(make_lease(4, **CONFIG), settings)
    narrow(run.classifier.head, most=4)
    run.run_epoch()

    again = TrialRun(make_lease(4, attempt=2, **CONFIG), settings)
    again.continue_from(run.checkpoint_state())
    refused = narrow(again.classifier.head, most=4)
    report = again.run_epoch()

    assert report.metrics["images_at_once"] == 4
    assert 16 not in refused, "training; validation looks at 9 images"


def test_a_backbone_that_was_let_go_of_is_found_again_while_a_trial_uses_it(settings: StudySettings) -> None:
    run = TrialRun(make_lease(5, **CONFIG | {"unfreeze_depth": 0, "regime": "linear_probe"}), settings)

    assert drop_backbones()
    assert not drop_backbones()
    again = TrialRun(make_lease(6, **CONFIG | {"unfreeze_depth": 0, "regime": "linear_probe"}), settings)

    assert again.classifier.backbone is run.classifier.backbone
