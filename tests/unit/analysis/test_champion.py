"""The alias `champion` names the version of the model that is the study's answer now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from analysis.tracking import log_model
from contract.model_layout import CODE_FILES, ModelPaths
from tests.study_factory import FakeTrial, make_study
from tests.unit.analysis.test_serving import export_dir as export_dir

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path: Path, export_dir: Path) -> Path:
    directory = make_study(tmp_path / "flowers", [FakeTrial()])
    shutil.copytree(export_dir, directory / "model")
    return directory


def change(model: Path, **facts: Any) -> None:
    card = ModelPaths(model).card
    card.write_text(json.dumps(json.loads(card.read_text()) | facts))


def test_champion_follows_the_answer_and_comes_back_to_it(study: Path, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    log_model(study, study / "model")
    of_first = client.get_model_version_by_alias("flowers", "champion").version
    change(study / "model", trial=1)
    log_model(study, study / "model")
    of_second = client.get_model_version_by_alias("flowers", "champion").version
    client.set_registered_model_alias("flowers", "champion", of_first)  # someone else's hand
    log_model(study, study / "model")
    again = client.get_model_version_by_alias("flowers", "champion").version

    assert [int(one) for one in (of_first, of_second, again)] == [1, 2, 2]


def test_nothing_is_written_a_second_time(study: Path, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    uri = log_model(study, study / "model")
    before = client.get_registered_model("flowers")

    assert log_model(study, study / "model") == uri

    after = client.get_registered_model("flowers")
    assert (after.aliases, after.last_updated_timestamp) == (before.aliases, before.last_updated_timestamp)
    assert len(client.search_model_versions("name = 'flowers'")) == 1


def test_a_version_that_was_deleted_is_registered_again(study: Path, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    log_model(study, study / "model")
    client.delete_registered_model("flowers")

    log_model(study, study / "model")

    assert int(client.get_model_version_by_alias("flowers", "champion").version) == 1
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model("models:/flowers@champion")
    assert loaded.metadata.signature.outputs.input_names()[0] == "label"


def test_the_logged_model_carries_the_code_that_its_export_has(study: Path, tmp_path: Path) -> None:
    import contract.model_layout

    carried = ModelPaths(study / "model").code / "contract"
    carried.mkdir(parents=True)
    for name in CODE_FILES:
        shutil.copy(Path(contract.model_layout.__file__).with_name(name), carried)
    with (carried / "model_answers.py").open("a") as file:
        file.write("# of the export\n")

    uri = log_model(study, study / "model")

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    assert (folder / "code/contract/model_answers.py").read_text().endswith("# of the export\n")
    assert {path.name for path in (folder / "code/contract").glob("*.py")} == {*CODE_FILES, "__init__.py"}
