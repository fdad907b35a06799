"""A whole trial with settings that concern several modules: limits, averages, neighbours, baselines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.answer import Combination, MemberRef
from contract.messages import Report, StudySettings
from contract.model_layout import ModelPaths
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.export.members import load_classifier
from trainables.export.program import make_checked_program
from trainables.lease import LeasedRun
from trainables.run import TrialRun

pytestmark = pytest.mark.slow
PROBE = {"regime": "linear_probe", "unfreeze_depth": 0}
KNN = {"regime": "knn", "unfreeze_depth": 0}
PIXELS = {"backbone": "linear_pixels", **PROBE, "optimizer": "adam", "schedule": "constant"}
Reports = list[Report]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("settings"), fits=("crop",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(settings: StudySettings, number: int, **config: Any) -> LeasedRun:
    (leased,) = start_trials(settings, make_lease(number, **config))
    return leased


def train(settings: StudySettings, number: int, **config: Any) -> tuple[TrialRun, Reports]:
    leased = start(settings, number, **config)
    reports: Reports = []
    while not leased.finished:
        reports += leased.advance()
    assert leased.run is not None
    return leased.run, reports


def predictions(settings: StudySettings, number: int) -> dict[str, np.ndarray]:
    with np.load(settings.trial_paths(number).predictions) as file:
        return dict(file)


def test_nearest_neighbours_finish_in_one_epoch_and_leave_a_classifier(
    settings: StudySettings, tmp_path: Path
) -> None:
    run, reports = train(settings, 1, **KNN, num_neighbours=3, distance="euclidean", max_epochs=5)

    found = predictions(settings, 1)
    config = make_lease(1, **KNN, num_neighbours=3, distance="euclidean").config
    classifier = load_classifier(run.paths, config, settings)
    ref = MemberRef("trial", 1)
    make_checked_program(Combination.single(ref), {ref: config}, settings).write(
        settings, target=ModelPaths(tmp_path), about={}
    )

    assert [report.outcome for report in reports] == ["complete"]
    assert reports[0].metrics["trainable_parameters"] == 0
    assert reports[0].metrics["val_accuracy"] > 0.5
    assert torch.equal(classifier.head.features, run.classifier.head.features)
    np.testing.assert_allclose(np.exp(found["log_probabilities"]).sum(1), 1, atol=1e-2)
    assert (tmp_path / "classifier.pt2").exists()


def test_a_cap_on_steps_bounds_the_updates_and_the_schedule(settings: StudySettings) -> None:
    run, reports = train(settings, 2, **PROBE, batch_size=8, steps_per_epoch=2, max_epochs=3)

    assert run.schedule.total_steps == 6
    assert run.step == 6
    assert len(reports) == 3


def test_a_cap_on_validation_looks_at_the_same_images_in_every_trial(settings: StudySettings) -> None:
    train(settings, 3, **PROBE, batch_size=4, validation_images=4)
    train(settings, 4, **PROBE, batch_size=4, validation_images=4, learning_rate=1e-4)
    train(settings, 5, **PROBE)

    first, second, whole = (predictions(settings, number) for number in (3, 4, 5))

    assert len(first["ids"]) == len(first["labels"]) == len(first["log_probabilities"]) == 4
    assert np.array_equal(first["ids"], second["ids"])
    assert set(first["ids"]) < set(whole["ids"])
    by_id = dict(zip(whole["ids"], whole["labels"], strict=True))
    assert [by_id[number] for number in first["ids"]] == list(first["labels"])


def test_what_is_validated_and_kept_is_the_average_of_the_weights(settings: StudySettings) -> None:
    run, _ = train(settings, 6, **PROBE, ema_decay=0.5, max_epochs=1)
    assert run.average is not None

    kept, live = run.kept.trained["head.output.weight"], run.classifier.head.get_submodule("output").weight

    torch.testing.assert_close(kept, run.average.average["head.output.weight"])
    assert not torch.equal(kept, live)


def test_a_trial_with_an_average_goes_on_from_its_state_as_if_never_stopped(settings: StudySettings) -> None:
    config = {
        "unfreeze_depth": "layers:3",
        "ema_decay": 0.9,
        "layer_decay": 0.5,
        "head_l2": 1e-3,
        "max_epochs": 3,
    }
    whole, _ = train(settings, 7, **config)
    stopped, resumed = start(settings, 7, **config), start(settings, 7, **config)
    stopped.advance()
    resumed._start()
    assert stopped.run is not None and resumed.run is not None

    resumed.run.continue_from(stopped.run.checkpoint_state())
    while not resumed.run.finished:
        resumed.run.run_epoch()

    assert resumed.run.kept.epoch == whole.kept.epoch
    for name, tensor in whole.classifier.trained_state().items():
        assert torch.equal(tensor, resumed.run.classifier.trained_state()[name]), name
        assert torch.equal(whole.average.average[name], resumed.run.average.average[name]), name


def test_impatience_in_the_frozen_phase_does_not_keep_the_backbone_frozen(settings: StudySettings) -> None:
    config = {"regime": "two_phase", "frozen_epochs": 4, "max_epochs": 12, "early_stopping_patience": 1}

    run, reports = train(settings, 8, **config, learning_rate=1e-12, unfreeze_depth=1)

    assert len(reports) > 4
    assert run.phase is run.phases[-1]
    assert len(reports) < 12


def test_the_same_network_on_blank_images_is_worse(settings: StudySettings) -> None:
    _, seeing = train(settings, 9, **PIXELS, max_epochs=4)
    _, blind = train(settings, 10, **PIXELS, max_epochs=4, zero_inputs=True)

    accuracies = [max(report.metrics["val_accuracy"] for report in reports) for reports in (seeing, blind)]

    assert accuracies[0] > accuracies[1] + 0.3
    assert np.ptp(predictions(settings, 10)["log_probabilities"], axis=0).max() == 0


@pytest.mark.parametrize("backbone", ["resnet18", "handcrafted"])
def test_flattened_maps_feed_the_head_and_come_back_from_disk(settings: StudySettings, backbone: str) -> None:
    number = 11 if backbone == "resnet18" else 12
    config = {"backbone": backbone, "regime": "scratch", "unfreeze_depth": "all", "head_pooling": "flatten"}

    run, _ = train(settings, number, **config, head_width="16-8", head_batch_norm=True, max_epochs=1)
    loaded = load_classifier(run.paths, run.config.__dict__, settings)

    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), run.classifier.eval()(images))
