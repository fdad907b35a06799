"""A worker reports a trial that is outside the limits or runs out of memory instead of an epoch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from contract.messages import LeasedTrial, StudySettings
from contract.study_layout import TrialPaths
from contract.trial_config import TrialConfig
from trainables import lease as lease_module
from trainables.lease import LeasedRun
from trainables.limits import OutsideLimits, check_limits, measure_latency_ms


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.layer(images.flatten(1)))

    def num_parameters(self) -> tuple[int, int]:
        num = sum(parameter.numel() for parameter in self.parameters())
        return num, num


def make_settings(tmp_path: Path, **changes: Any) -> StudySettings:
    values: dict[str, Any] = {"study_directory": str(tmp_path), "classes": ("a", "b"), "weights": "random"}
    values |= {"image_size": 8, "seed": 0, "metric": "val_accuracy", "maximize": True, "num_trials": 1}
    values |= {"cache_directory": str(tmp_path), "cache_gigabytes": 1.0, "threads": 1}
    return StudySettings(**(values | changes))


class FakeRun:
    """Stands in for a trial: its first epoch runs out of memory."""

    def __init__(self, leased: LeasedTrial, settings: StudySettings, **_: Any) -> None:
        self.classifier, self.attempt, self.epoch = Tiny(), leased.attempt, 0
        self.config = TrialConfig(backbone="tiny", **leased.config)
        self.paths = settings.trial_paths(leased.trial)
        self.records: list[Any] = []
        self.finished = False

    def run_epoch(self, _: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


LEASE = LeasedTrial(trial=0, attempt=1, config={"max_epochs": 4}, done_epochs=0)


def test_a_larger_classifier_is_outside_with_both_numbers() -> None:
    with pytest.raises(OutsideLimits, match="1,930 parameters, --max-params is 1,000") as raised:
        check_limits(cast(Any, Tiny()), image_size=8, max_params=1000, max_latency_ms=None)

    assert raised.value.excess == pytest.approx(0.93)
    check_limits(cast(Any, Tiny()), image_size=8, max_params=1930, max_latency_ms=1000.0)


def test_a_slow_classifier_is_outside_and_measuring_leaves_its_mode() -> None:
    model = Tiny().train()

    with pytest.raises(OutsideLimits, match="--max-latency-ms is 1e-06"):
        check_limits(cast(Any, model), image_size=8, max_params=None, max_latency_ms=1e-6)

    assert model.training
    assert measure_latency_ms(cast(Any, model), image_size=8) > 0


def test_a_trial_outside_the_limits_is_reported_as_infeasible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "TrialRun", FakeRun)
    run = LeasedRun(LEASE, make_settings(tmp_path, max_params=1000))

    (report,) = run.step()

    assert (report.outcome, report.epoch, report.metrics) == ("infeasible", 0, {})
    assert report.limit and "--max-params is 1,000" in report.limit
    assert report.excess == pytest.approx(0.93)
    assert run.finished


def test_out_of_memory_is_told_and_what_the_trial_held_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "TrialRun", FakeRun)
    run = LeasedRun(LEASE, make_settings(tmp_path))

    (report,) = run.step()

    assert (report.outcome, report.reason) == ("failed", "out of memory"), report.traceback
    assert "Tried to allocate" in report.traceback
    assert run.finished
    assert run.run is None


def test_a_checkpoint_is_left_where_the_scheduler_may_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    run = LeasedRun(replace(LEASE, checkpoint_epochs=(1, 3)), make_settings(tmp_path))
    monkeypatch.setattr(lease_module, "save_checkpoint", lambda _, state, *, attempt: saved.append(state))
    for epoch in range(1, 5):
        fake = SimpleNamespace(finished=False, epoch=epoch, paths=TrialPaths(tmp_path), attempt=1)
        fake.checkpoint_state = partial(int, epoch)
        run._save(cast(Any, fake), None)

    assert saved == [1, 3]
