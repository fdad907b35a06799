"""Heads that do not fit in memory together train one by one, with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.messages import Report, StudySettings
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables import lease as lease_module
from trainables.device import memory
from trainables.lease import take_turns
from trainables.training.checkpoints import load_state
from trainables.training.head_batch import HeadEpoch, train_heads

HEAD: dict[str, Any] = {"regime": "linear_probe", "unfreeze_depth": 0, "batch_size": 8, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("starved"), fits=("crop",))


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "trains_in_lockstep", lambda _: True)
    monkeypatch.setattr(memory, "_reserves", [])


def run_heads(settings: StudySettings, numbers: Sequence[int], *, attempt: int = 1) -> list[Report]:
    leases = [
        replace(
            make_lease(number, attempt=attempt, **HEAD, learning_rate=1e-3 * (1 + number % 10)),
            until_epoch=2,
        )
        for number in numbers
    ]
    runs = start_trials(settings, *leases)
    reports = []
    while any(not run.finished for run in runs):
        reports += take_turns(runs)
    return reports


def weights_of(settings: StudySettings, number: int) -> dict[str, torch.Tensor]:
    state = load_state(settings.trial_paths(number).weights)
    assert state is not None
    return dict(state["trained"])


def fit(most: int) -> Any:
    """A `train_heads` that runs out of memory at the end of the epoch with more than `most` heads."""

    def train(heads: Sequence[HeadEpoch]) -> Any:
        results = train_heads(heads)
        if len(heads) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return results

    return train


def test_heads_that_do_not_fit_together_train_one_by_one_with_the_numbers_of_each_alone(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_heads(settings, [20])
    expected = weights_of(settings, 20)
    monkeypatch.setattr(lease_module, "train_heads", fit(1))

    reports = run_heads(settings, [20, 21], attempt=2)

    assert [report.outcome for report in reports if report.epoch == 2] == ["complete"] * 2
    for name, tensor in weights_of(settings, 20).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_head_for_which_even_alone_there_is_no_room_trains_in_parts_of_a_batch(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "train_heads", fit(0))

    reports = run_heads(settings, [30, 31])

    assert [report.outcome for report in reports if report.epoch == 2] == ["complete"] * 2
