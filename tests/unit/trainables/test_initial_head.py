"""A deeper trial that begins with a probe's head: which head that is, and that a restart changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contract.messages import LeasedTrial, StudySettings
from contract.probes import frozen_head
from contract.trial_config import config_as_dict, make_trial_config
from tests.lone_trial import run_alone, start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.lease import LeasedRun
from trainables.training.checkpoints import load_state

DEEP: dict[str, Any] = {
    "unfreeze_depth": 1,
    "max_epochs": 3,
    "dropout": 0.2,
    "policy": "flip",
    "initial_head": "probe",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("initial"), fits=("crop",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def started(settings: StudySettings, leased: LeasedTrial) -> LeasedRun:
    [run] = start_trials(settings, leased)
    assert run.begin() == []
    return run


def head_of(run: LeasedRun) -> dict[str, torch.Tensor]:
    assert run.run is not None
    return {name: tensor.clone() for name, tensor in run.run.classifier.head.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("number", "changes"),
    [(1, {}), (2, {"ema_decay": 0.5}), (3, {"regime": "two_phase", "frozen_epochs": 1})],
)
def test_the_trial_begins_with_the_head_that_a_frozen_trial_ends_with(
    settings: StudySettings, number: int, changes: dict[str, Any]
) -> None:
    deep = make_lease(number, **DEEP, **changes)
    frozen = replace(deep, config=frozen_head(config_as_dict(make_trial_config(deep.config))))
    [probe] = start_trials(settings, frozen)
    while not probe.finished:
        probe.step()
    expected = head_of(probe)
    if "ema_decay" in changes:
        assert probe.run is not None
        assert probe.run.average is not None
        with probe.run.average.applied():
            expected = head_of(probe)

    run = started(settings, replace(deep, attempt=2))

    assert are_equal(head_of(run), expected)
    new = started(settings, make_lease(number + 3, **{**DEEP, "initial_head": "new"}))
    assert not are_equal(head_of(run), head_of(new))


def test_it_trains_on_from_there_and_is_the_same_every_time(settings: StudySettings) -> None:
    warm = run_alone(settings, make_lease(11, **DEEP))
    again = run_alone(settings, make_lease(11, attempt=2, **DEEP))
    cold = run_alone(settings, make_lease(11, attempt=3, **{**DEEP, "initial_head": "new"}))

    assert warm == again
    assert all(one["train_loss"] != other["train_loss"] for one, other in zip(warm, cold, strict=True))


def test_a_trial_taken_up_from_its_checkpoint_ends_like_one_that_never_stopped(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run_alone(settings, make_lease(21, **DEEP))
    model = load_state(settings.trial_paths(21).weights)
    log_probabilities = np.load(settings.trial_paths(21).predictions)["log_probabilities"]
    monkeypatch.setattr("trainables.lease.CHECKPOINT_SECONDS", 0.0)
    run = started(settings, make_lease(21, attempt=2, **DEEP))
    run.step()

    monkeypatch.setattr("trainables.initial_head.TrialRun", None)  # no head is trained a second time
    rest = run_alone(settings, make_lease(21, attempt=3, done_epochs=1, **DEEP))

    resumed = load_state(settings.trial_paths(21).weights)
    assert rest == undisturbed[1:]
    assert model is not None
    assert resumed is not None
    assert are_equal(resumed["trained"], model["trained"])
    assert np.array_equal(
        np.load(settings.trial_paths(21).predictions)["log_probabilities"], log_probabilities
    )


def test_at_depth_0_it_has_no_effect(settings: StudySettings) -> None:
    frozen = {"unfreeze_depth": 0, "regime": "linear_probe"}

    with_it = run_alone(settings, make_lease(31, **{**DEEP, **frozen}))
    without = run_alone(settings, make_lease(31, attempt=2, **{**DEEP, **frozen, "initial_head": "new"}))

    assert with_it == without


def test_a_head_that_diverges_is_the_trials_failure(settings: StudySettings) -> None:
    [run] = start_trials(settings, make_lease(41, **{**DEEP, "learning_rate": 1e60}))

    [report] = run.step()

    assert report.reason == "diverged"
    assert run.finished
