"""Final trainings in a real MLflow: runs beside the trials', written once, found again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.tracking import sync
from cluster.study.final_records import FinalRecord
from cluster.study.records import Records
from contract.finals import FinalTraining
from contract.messages import State
from contract.trial_config import config_as_dict, make_trial_config
from tests.study_factory import FakeTrial, make_study

mlflow = pytest.importorskip("mlflow")
CONFIG = config_as_dict(make_trial_config({"backbone": "lite0", "unfreeze_depth": 0}))
SEED = FinalRecord(
    final=0,
    training=FinalTraining.seed(1, 1),
    config=CONFIG,
    state=State.COMPLETE,
    epochs=3,
    kept_at_epoch=2,
    metrics={"val_accuracy": 0.75, "val_loss": 0.5},
    seconds=9.0,
    attempt=1,
    arrival=1_760_000_500.0,
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "flowers", [FakeTrial(), FakeTrial()])


@pytest.fixture
def records(study: Path) -> Iterator[Records]:
    url = f"sqlite:///{study}/study.db"
    opened = Records(url, study="flowers", directions=["maximize"], metric="val_accuracy", new=False)
    yield opened
    opened.close()


@pytest.mark.slow
def test_each_that_ended_is_one_run_with_its_kind_and_source(study: Path, records: Records) -> None:
    refit = replace(SEED, final=1, training=FinalTraining.refit(1, epochs=2), metrics={"train_loss": 0.1})
    running = replace(SEED, final=2, training=FinalTraining.seed(1, 2), state=State.RUNNING)
    records.record_finals([SEED, refit, running])

    told = [sync(study), sync(study)]
    records.record_finals([replace(running, state=State.FAILED, error="Traceback\nKeyError: 1")])
    told.append(sync(study))

    client = mlflow.MlflowClient(f"sqlite:///{study.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("flowers")
    found = {
        run.data.tags["unfreeze.final"]: run
        for run in client.search_runs([experiment.experiment_id], "tags.kind LIKE '%'")
    }
    assert told[0].startswith("4 runs written")
    assert told[1].startswith("up to date")
    assert told[2].startswith("1 run written")
    assert {number: run.data.tags["kind"] for number, run in found.items()} == {
        "0": "seed",
        "1": "refit",
        "2": "seed",
    }
    assert found["0"].info.run_name == "seed 1 of trial 1: 001 lite0 finetune d0"
    assert found["0"].data.metrics == {"val_accuracy": 0.75, "val_loss": 0.5, "seconds": 9.0}
    assert found["0"].data.tags["source_trial"] == "1"
    assert found["0"].data.params["unfreeze_depth"] == "0"
    assert found["1"].data.metrics == {"train_loss": 0.1, "seconds": 9.0}
    assert [found[number].info.status for number in "012"] == ["FINISHED", "FINISHED", "FAILED"]
    parents = client.search_runs([experiment.experiment_id], "tags.`unfreeze.study` LIKE '%'")
    assert sum("mlflow.parentRunId" not in run.data.tags for run in parents) == 1
