"""Probes compute what a frozen trial with their draw computes, leave no files, and fail by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.messages import Lease, StudySettings
from contract.probes import LeasedProbe, ProbeReport
from tests.lone_trial import MEASURED
from tests.tiny_data import make_lease, make_settings
from trainables.lease import start_lease, take_turns
from trainables.probes import start_probes, take_probe_turns
from trainables.trial import Trial

HEAD = {"backbone": "lite0", "regime": "linear_probe", "unfreeze_depth": 0, "max_epochs": 3, "batch_size": 8}
HEADS: list[dict[str, Any]] = [
    {**HEAD, "learning_rate": 3e-3},
    {**HEAD, "learning_rate": 1e-3, "dropout": 0.5},
    {**HEAD, "learning_rate": 1e-3, "dropout": 0.2, "head_width": 16, "head_batch_norm": True},
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("probes"), fits=("crop",))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lease_config(settings: StudySettings, heads: dict[int, dict[str, Any]]) -> dict[str, Any]:
    probes = tuple(LeasedProbe(probe=number, config=head) for number, head in heads.items())
    return Lease(trials=(), probes=probes).as_config(settings.as_values())


def run_all(settings: StudySettings, heads: dict[int, dict[str, Any]]) -> dict[int, ProbeReport]:
    runs = start_probes(lease_config(settings, heads))
    reports: list[ProbeReport] = []
    while not all(run.finished for run in runs):
        reports += take_probe_turns(runs)
    assert len(reports) == len(heads)
    return {report.probe: report for report in reports}


def computed(metrics: Any) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in MEASURED}


def run_as_trial(settings: StudySettings, number: int, head: dict[str, Any]) -> dict[str, float]:
    [run] = start_lease(Lease(trials=(make_lease(number, **head),)).as_config(settings.as_values()))
    reports = []
    while not run.finished:
        reports += take_turns([run])
    assert len(reports) == 3
    return computed(reports[-1].metrics)


@pytest.mark.parametrize("in_lockstep", [False, True])
def test_a_probe_measures_what_a_frozen_trial_of_its_draw_does(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, in_lockstep: bool
) -> None:
    monkeypatch.setattr("trainables.lease.trains_in_lockstep", lambda _: in_lockstep)

    reports = run_all(settings, dict(enumerate(HEADS)))

    for number, head in enumerate(HEADS):
        assert reports[number].error is None
        assert reports[number].seconds > 0
        assert computed(reports[number].metrics) == run_as_trial(settings, -(number + 1), head)


def test_probes_leave_no_files_in_the_study(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fits=("crop",))
    before = sorted(Path(settings.study_directory).rglob("*"))

    run_all(settings, dict(enumerate(HEADS)))

    assert sorted(Path(settings.study_directory).rglob("*")) == before


def test_an_error_is_the_probes_own_and_the_others_go_on(settings: StudySettings) -> None:
    heads = {4: {**HEADS[0], "learning_rate": 1e60}, 5: {**HEADS[0], "backbone": "lite9"}, 6: HEADS[0]}

    reports = run_all(settings, heads)

    assert reports[4].error is not None
    assert "Diverged" in reports[4].error
    assert reports[4].metrics == {}
    assert reports[5].error is not None
    assert "lite9" in reports[5].error
    assert reports[6].error is None


def test_a_head_outside_the_limits_says_so(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, fits=("crop",), max_params=1000)

    [report] = run_all(settings, {0: HEADS[0]}).values()

    assert report.error is not None
    assert "--max-params is 1,000" in report.error


def test_the_trainable_gives_a_second_of_probes_a_step(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.probes.STEP_SECONDS", 0.0)
    trial = Trial(lease_config(settings, dict(enumerate(HEADS))))

    steps = [trial.train()]
    while not steps[-1]["over"]:
        steps.append(trial.train())

    assert [len(step["probes"]) for step in steps] == 3 * [0, 0, 1]
    assert [one["probe"] for step in steps for one in step["probes"]] == [0, 1, 2]
