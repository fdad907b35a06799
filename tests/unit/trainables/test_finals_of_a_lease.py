"""Final trainings on a worker: what a repeated seed, a fold and a refit train on, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contract.finals import FinalTraining
from contract.messages import LeasedTrial, StudySettings
from contract.study_layout import TrialPaths
from tests.lone_trial import run_alone, start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.activations.shared import load_splits, open_cache
from trainables.data.manifest import read_manifest
from trainables.run import TrialRun
from trainables.training.checkpoints import load_state

HEAD: dict[str, Any] = {"regime": "linear_probe", "unfreeze_depth": 0, "max_epochs": 4}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("finals"), fits=("crop",))


def final(number: int, training: FinalTraining, **config: Any) -> LeasedTrial:
    return replace(make_lease(number, **{**HEAD, **config}), final=training)


def trained(paths: TrialPaths) -> dict[str, torch.Tensor]:
    state = load_state(paths.weights)
    assert state is not None
    return dict(state["trained"])


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_repeated_seed_differs_from_its_trial_and_is_the_same_every_time(settings: StudySettings) -> None:
    run_alone(settings, make_lease(3, **HEAD))
    run_alone(settings, final(0, FinalTraining.seed(3, 1)))
    run_alone(settings, final(1, FinalTraining.seed(3, 1)))
    run_alone(settings, final(2, FinalTraining.seed(3, 2)))

    trial = trained(settings.paths.trial(3))
    first, again, second = (trained(settings.paths.final(number)) for number in range(3))
    assert are_equal(first, again)
    assert not are_equal(first, trial)
    assert not are_equal(first, second)


def test_a_repeated_seed_sees_other_views_of_augmented_images(settings: StudySettings) -> None:
    leased = make_lease(3, **HEAD, policy="light")
    trial = TrialRun(leased, settings)
    repeated = TrialRun(replace(leased, final=FinalTraining.seed(3, 1)), settings)

    assert repeated.inputs["train"].view.seed != trial.inputs["train"].view.seed == settings.seed
    assert repeated.inputs["val"].view.number(5) == 0


def test_a_refit_trains_on_train_and_val_for_exactly_the_kept_epochs(settings: StudySettings) -> None:
    leased = final(10, FinalTraining.refit(3, epochs=2), early_stopping_patience=1)
    [run] = start_trials(settings, leased)
    run.step()
    assert run.run is not None
    splits, schedule, steps = run.run.splits, run.run.schedule, run.run.step

    metrics = run_alone(settings, replace(leased, attempt=2))

    study = load_splits(settings, "crop", CPU)
    assert sorted(splits["train"].ids) == sorted([*study["train"].ids, *study["val"].ids])
    assert schedule.total_steps == 4 * steps  # the trial's own max_epochs, on more images
    assert len(metrics) == 2
    paths = settings.paths.final(10)
    assert paths.fitted_predictions.exists()
    assert not paths.predictions.exists()
    assert (load_state(paths.weights) or {})["value"] is None


def test_a_refit_of_all_epochs_ends_with_its_schedule(settings: StudySettings) -> None:
    metrics = run_alone(settings, final(11, FinalTraining.refit(3, epochs=4)))

    assert len(metrics) == 4


def test_folds_predict_all_images_that_they_were_not_trained_on_and_share_one_pass(
    settings: StudySettings,
) -> None:
    cache = open_cache(settings.cache_directory, settings.cache_gigabytes)
    assert cache is not None
    run_alone(settings, make_lease(4, **HEAD))
    before = cache.stats().misses
    ids = []
    for fold in range(3):
        leased = final(20 + fold, FinalTraining.fold_of(4, fold, 3, epochs=2))
        run = TrialRun(leased, settings)
        assert set(run.splits["train"].ids).isdisjoint(run.splits["val"].ids)
        assert len(run_alone(settings, leased)) == 2
        with np.load(settings.paths.final(20 + fold).predictions) as file:
            assert np.array_equal(file["ids"], run.splits["val"].ids)
            ids += file["ids"].tolist()

    manifest = read_manifest(settings.paths.manifest, settings.classes)
    assert sorted(ids) == np.flatnonzero(manifest.splits != "test").tolist()
    assert cache.stats().misses <= before + 1  # none where a refit has read them all


def test_what_a_fold_computes_does_not_depend_on_the_cache(settings: StudySettings) -> None:
    leased = final(30, FinalTraining.fold_of(4, 1, 3, epochs=2))
    cached = run_alone(settings, leased)
    kept = trained(settings.paths.final(30))

    uncached = run_alone(replace(settings, cache_gigabytes=0.0), replace(leased, attempt=2))

    assert cached == [pytest.approx(one, rel=1e-4) for one in uncached]
    for name, tensor in trained(settings.paths.final(30)).items():
        torch.testing.assert_close(tensor, kept[name], rtol=1e-3, atol=1e-5)


def test_mixed_views_of_a_fold_have_no_partner_that_is_held_out(settings: StudySettings) -> None:
    leased = final(31, FinalTraining.fold_of(4, 0, 3, epochs=2), mix="mixup")
    run = TrialRun(leased, settings)

    train, val = (run.inputs[name]._open(1) for name in ("train", "val"))
    assert [part.num_rows for part in train._parts] == [len(run.splits["train"])]
    assert train._parts[0].chosen is None  # an entry of its own
    assert val._parts[0].chosen is not None  # rows of one that all folds share


def test_a_plateau_schedule_of_a_refit_follows_the_losses_of_its_trial(settings: StudySettings) -> None:
    losses = (1.0, 2.0, 2.0, 2.0, 2.0)
    training = FinalTraining.refit(3, epochs=5, val_losses=losses)
    [run] = start_trials(settings, final(12, training, schedule="plateau", max_epochs=6))
    while not run.finished:
        run.step()

    assert run.run is not None
    assert run.run.schedule.plateau_share == pytest.approx(0.1)


def test_a_final_that_was_cut_off_goes_on_from_its_checkpoint(settings: StudySettings) -> None:
    training = FinalTraining.refit(3, epochs=3)
    whole = run_alone(settings, final(40, training))
    leased = replace(final(41, training), checkpoint_epochs=(1,))
    [cut_off] = start_trials(settings, leased)
    cut_off.step()

    rest = run_alone(settings, replace(leased, attempt=2, done_epochs=1))

    assert [one["train_loss"] for one in rest] == [one["train_loss"] for one in whole[1:]]
    assert are_equal(trained(settings.paths.final(40)), trained(settings.paths.final(41)))


def test_a_head_that_a_refit_begins_with_trains_on_all_images_for_all_epochs(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"regime": "finetune", "unfreeze_depth": 1, "max_epochs": 3, "initial_head": "probe"}
    epochs = []
    inherited = TrialRun.run_epoch

    def noted(run: TrialRun, *given: Any) -> Any:
        epochs.append((run.config.unfreeze_depth, len(run.splits["train"])))
        return inherited(run, *given)

    monkeypatch.setattr(TrialRun, "run_epoch", noted)
    run_alone(settings, final(50, FinalTraining.refit(3, epochs=1), **config))

    number = sum(len(split) for split in load_splits(settings, "crop", CPU).values())
    assert epochs == [(0, number)] * 3 + [(1, number)]
