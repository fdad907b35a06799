"""Every regime trains alone and on two workers of Ray Train, and reports the same kind of epochs."""

from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from cluster.ray_tune.session import Session
from tests.collected_reports import CollectReports
from tests.tiny_data import make_lease, make_settings
from trainables.distributed import train_on_worker
from trainables.lease import start_lease
from trainables.settings import StudySettings
from trainables.training.metric_sums import METRIC_NAMES
from trainables.training.regimes import load_regime, names

pytestmark = pytest.mark.slow
Reports = list[dict[str, Any]]


def lease_of(number: int, regime: str) -> dict[str, Any]:
    proposal = load_regime(regime).complete({"regime": regime, "dropout": 0.0})
    return make_lease(number, **proposal)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    return make_settings(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def leases() -> list[dict[str, Any]]:
    return [lease_of(number, regime) for number, regime in enumerate(names())]


@pytest.fixture(scope="module")
def alone(settings: StudySettings, leases: list[dict[str, Any]]) -> dict[int, Reports]:
    reports: dict[int, Reports] = {}
    for run in start_lease({"trials": leases, "settings": asdict(settings)}):
        while not run.finished:
            reports.setdefault(run.lease["trial"], []).extend(run.step())
    return reports


@pytest.fixture(scope="module")
def second_study(settings: StudySettings, tmp_path_factory: pytest.TempPathFactory) -> StudySettings:
    """The same data and seeds, so the same batches and the same first weights."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copy(Path(settings.study_directory) / "data.csv", folder)
    return replace(settings, study_directory=str(folder), workers=2)


@pytest.fixture(scope="module")
def together(
    second_study: StudySettings, leases: list[dict[str, Any]], ray_session: Session
) -> dict[int, Reports]:
    """One Ray Train run takes all regimes, one after the other: starting a run costs half a minute."""
    folder = Path(second_study.study_directory)
    handler = signal.getsignal(signal.SIGINT)
    TorchTrainer(
        train_on_worker,
        train_loop_config={"trials": leases, "settings": asdict(second_study)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.9}),
        run_config=train.RunConfig(
            name="regimes", storage_path=str(folder), callbacks=[CollectReports(folder / "reports.jsonl")]
        ),
    ).fit()
    signal.signal(signal.SIGINT, handler)  # Ray Train leaves its own behind
    reports: dict[int, Reports] = {}
    for line in (folder / "reports.jsonl").read_text().splitlines():
        for report in json.loads(line):
            reports.setdefault(report["trial"], []).append(report)
    return reports


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("way", ["alone", "together"])
def test_a_regime_reports_every_epoch_whole(name: str, way: str, request: pytest.FixtureRequest) -> None:
    reports = request.getfixturevalue(way)[names().index(name)]

    assert [report["reason"] for report in reports] == [None] * len(reports), reports[-1]["traceback"]
    assert reports[-1]["outcome"] == "complete"
    assert [report["epoch"] for report in reports] == list(range(1, len(reports) + 1))
    for report in reports:
        assert set(report["metrics"]) == set(METRIC_NAMES)
        assert all(math.isfinite(value) for value in report["metrics"].values())


@pytest.mark.parametrize("name", names())
@pytest.mark.usefixtures("alone", "together")
def test_a_regime_leaves_its_weights_and_predictions(
    name: str, settings: StudySettings, second_study: StudySettings
) -> None:
    for study in (settings, second_study):
        folder = Path(study.study_directory) / "trials" / str(names().index(name))
        assert (folder / "model.pt").exists()
        assert (folder / "predictions.npz").exists()


def test_two_workers_train_what_one_would(alone: dict[int, Reports], together: dict[int, Reports]) -> None:
    """The head of a linear probe has no batch norm: averaged gradients are those of the whole batch."""
    number = names().index("linear_probe")

    mine, theirs = (reports[number][-1]["metrics"] for reports in (alone, together))

    assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-3)
    assert theirs["val_loss"] == pytest.approx(mine["val_loss"], rel=1e-3)
    assert theirs["val_accuracy"] == mine["val_accuracy"]
