"""Every regime trains alone and on two workers of Ray Train, and reports the same kind of epochs."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.ray_tune.session import Session
from contract.messages import LeasedTrial, Report, StudySettings
from contract.metrics import METRICS
from tests.integration.served_leases import serve
from tests.lone_trial import start_trials
from tests.tiny_data import make_lease, make_settings
from trainables.distributed import WorkerGroup
from trainables.training.regimes import load_regime, names

pytestmark = pytest.mark.slow
Reports = list[Report]


def lease_of(number: int, regime: str) -> LeasedTrial:
    return make_lease(number, regime=regime, dropout=0.0, **load_regime(regime).fixed)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def leases() -> list[LeasedTrial]:
    return [lease_of(number, regime) for number, regime in enumerate(names())]


@pytest.fixture(scope="module")
def alone(settings: StudySettings, leases: list[LeasedTrial]) -> dict[int, Reports]:
    reports: dict[int, Reports] = {}
    for run in start_trials(settings, *leases):
        while not run.finished:
            reports.setdefault(run.leased.trial, []).extend(run.step())
    return reports


@pytest.fixture(scope="module")
def second_study(settings: StudySettings, tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """The same data and seeds, so the same batches and the same first weights."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copy(Path(settings.study_directory) / "data.csv", folder)
    return replace(settings, study_directory=str(folder), workers=2)


@pytest.fixture(scope="module")
def together(
    second_study: StudySettings, leases: list[LeasedTrial], ray_session: Session
) -> dict[int, Reports]:
    """One group of workers takes all regimes, one after the other: starting a group costs half a minute."""
    group = WorkerGroup(second_study)
    try:
        answers = {leased.trial: serve(group, second_study, leased) for leased in leases}
    finally:
        group.end()
    return {number: [one for answer in each for one in answer.reports] for number, each in answers.items()}


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("way", ["alone", "together"])
def test_a_regime_reports_every_epoch_whole(name: str, way: str, request: pytest.FixtureRequest) -> None:
    reports = request.getfixturevalue(way)[names().index(name)]

    assert [report.reason for report in reports] == [None] * len(reports), reports[-1].traceback
    assert reports[-1].outcome == "complete"
    assert [report.epoch for report in reports] == list(range(1, len(reports) + 1))
    for report in reports:
        assert set(report.metrics) == set(METRICS)
        assert all(math.isfinite(value) for value in report.metrics.values())


@pytest.mark.parametrize("name", names())
@pytest.mark.usefixtures("alone", "together")
def test_a_regime_leaves_its_weights_and_predictions(
    name: str, settings: StudySettings, second_study: StudySettings
) -> None:
    for study in (settings, second_study):
        paths = study.trial_paths(names().index(name))
        assert paths.weights.exists()
        assert paths.predictions.exists()


def test_two_workers_train_what_one_would(alone: dict[int, Reports], together: dict[int, Reports]) -> None:
    """The head of a linear probe has no batch norm: averaged gradients are those of the whole batch."""
    number = names().index("linear_probe")

    mine, theirs = (reports[number][-1].metrics for reports in (alone, together))

    assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-3)
    assert theirs["val_loss"] == pytest.approx(mine["val_loss"], rel=1e-3)
    assert theirs["val_accuracy"] == mine["val_accuracy"]
