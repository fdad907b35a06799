"""A trial leaves the weights and predictions of one epoch behind: the one that its rule keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.messages import LeasedTrial, Report, StudySettings
from contract.predictions import unpack_classes
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables import run as trial_run
from trainables.export.members import load_classifier
from trainables.lease import LeasedRun
from trainables.run import TrialRun

pytestmark = pytest.mark.slow
RULES = ("last", "lowest_loss", "best")
UNSTEADY = {"learning_rate": 0.3, "optimizer": "sgd", "schedule": "constant", "max_epochs": 6}
"""The rate is far too high, so that losses and accuracies rise and fall."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("kept"), fits=("crop",))


def finish(leased: LeasedRun) -> tuple[TrialRun, list[Report]]:
    reports = []
    while not leased.finished:
        reports += leased.advance()
    assert leased.run is not None
    return leased.run, reports


def unsteady(number: int, **config: Any) -> LeasedTrial:
    return make_lease(number, regime="linear_probe", unfreeze_depth=0, **UNSTEADY, **config)


def kept_by(rule: str, reports: list[Report]) -> int:
    """Epoch that the rule keeps, from 1."""
    if rule == "last":
        return len(reports)
    sign, name = (-1, "val_loss") if rule == "lowest_loss" else (1, "val_accuracy")
    values = [sign * report.metrics[name] for report in reports]
    return values.index(max(values)) + 1


@pytest.mark.parametrize("rule", RULES)
def test_weights_and_predictions_are_those_of_the_epoch_that_the_rule_keeps(
    settings: StudySettings, rule: str
) -> None:
    lease = unsteady(0, kept_epoch=rule, ema_decay=0.3)
    (leased,) = start_trials(settings, lease)

    run, reports = finish(leased)

    expected = reports[kept_by(rule, reports) - 1]
    saved = dict(np.load(run.paths.predictions))
    content = torch.load(run.paths.weights)
    assert (content["epoch"], content["value"]) == (expected.epoch, expected.metrics["val_accuracy"])
    assert expected.predicted is not None
    predicted = unpack_classes(expected.predicted)
    np.testing.assert_array_equal(saved["log_probabilities"].argmax(1), predicted)
    assert (predicted == saved["labels"]).mean() == pytest.approx(expected.metrics["val_accuracy"])
    images = run.inputs["val"].view.images(
        run.splits["val"], np.arange(len(run.splits["val"])), epoch=0, device=torch.device("cpu")
    )
    with torch.no_grad():
        found = load_classifier(run.paths, lease.config, settings)(images).log_softmax(1)
    np.testing.assert_allclose(found.numpy(), saved["log_probabilities"], atol=2e-2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("killed_after", [2, 5])
def test_a_killed_trial_keeps_what_it_would_have_kept(
    settings: StudySettings, rule: str, killed_after: int
) -> None:
    lease = unsteady(2, kept_epoch=rule, ema_decay=0.3)
    (leased,), (killed,), (resumed,) = (start_trials(settings, lease) for _ in range(3))
    whole, reports = finish(leased)
    for _ in range(killed_after):
        killed.advance()
    resumed._start()
    assert killed.run is not None and resumed.run is not None

    resumed.run.continue_from(killed.run.checkpoint_state())
    while not resumed.run.finished:
        resumed.run.run_epoch()

    assert whole.kept.epoch == resumed.run.kept.epoch == kept_by(rule, reports)
    assert [record.predicted for record in resumed.run.records] == [report.predicted for report in reports]
    assert whole.kept.log_probabilities is not None and resumed.run.kept.log_probabilities is not None
    assert torch.equal(whole.kept.log_probabilities, resumed.run.kept.log_probabilities)
    for name, tensor in whole.kept.trained.items():
        assert torch.equal(tensor, resumed.run.kept.trained[name]), name


def test_the_last_epoch_is_copied_only_once_the_trial_is_over(settings: StudySettings) -> None:
    (leased,) = start_trials(settings, unsteady(11, kept_epoch="last"))

    leased.advance()

    assert leased.run is not None
    assert leased.run.kept.trained == {}
    assert finish(leased)[0].kept.trained


def test_a_trial_whose_kept_epoch_was_before_the_unfreezing_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    lease = make_lease(regime="two_phase", unfreeze_depth=1, frozen_epochs=1)
    monkeypatch.setattr(trial_run, "epoch_merit", lambda rule, epoch, **values: -epoch)
    (leased,) = start_trials(settings, lease)
    while not leased.finished:
        reports = leased.step()
    run = leased.run
    assert run is not None and reports[-1].outcome == "complete", reports[-1].traceback

    classifier = load_classifier(run.paths, lease.config, settings)

    everything = np.arange(len(run.splits["val"]))
    view = run.inputs["val"].view
    images = view.images(run.splits["val"], everything, epoch=0, device=torch.device("cpu"))
    with torch.no_grad():
        log_probabilities = classifier(images).log_softmax(1)
    saved = np.load(run.paths.predictions)["log_probabilities"]
    np.testing.assert_allclose(log_probabilities.numpy(), saved, atol=5e-3)
