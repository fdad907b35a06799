"""Logs an exported classifier as an MLflow model under its study's run, ready to be served."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import contract.model_layout
from analysis.reading import StudyInfo, load_study
from analysis.tracking.server import find_tracking_uri, no_stray_folders, only_writer
from analysis.tracking.writer import open_view
from contract.files import printable
from contract.model_card import ModelCard
from contract.model_layout import CODE_FILES, ModelPaths

if TYPE_CHECKING:
    import pandas as pd

SERVING_FILE = Path(__file__).with_name("served_model.py")
"""The model's code: MLflow copies this file and runs it where the model is served."""

CHAMPION = "champion"
"""Alias of the version that is its study's answer now: `models:/STUDY@champion`."""

REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow")
PLUGINS = ("pillow-heif", "pillow-jxl-plugin")
"""Readers of further image formats: a model wants those that were there where it was trained."""


def log_model(study_dir: Path, export_dir: Path, tracking_uri: str | None = None) -> str:
    """Bring MLflow up to date, log and register the export unless that was done, and return the model URI.

    The alias `champion` of the registered model then names the export's version.

    Raises:
        ValueError: the directory holds no export.
    """
    export = ModelPaths(export_dir)
    digest = export.digest()
    if digest is None:
        missing = export.card if export.program.is_file() else export.program
        raise ValueError(f"{export_dir} is no exported classifier: {missing.name} is missing")
    try:
        with only_writer(study_dir):
            return _log_model(load_study(study_dir), export, tracking_uri, digest=digest)
    except BlockingIOError as error:
        raise ValueError("another process or thread still writes this study's view") from error


def _log_model(study: StudyInfo, export: ModelPaths, tracking_uri: str | None, *, digest: str) -> str:
    card = ModelCard.load(export)
    uri = find_tracking_uri(study, tracking_uri)
    view = open_view(study, tracking_uri)
    view.catch_up(status=study.status)
    known = view.logged_model(digest)
    with tracking_to(uri):
        if known is None:
            with no_stray_folders(uri):
                known = _log_as_new(study, export, card, run_id=view.parent_id)
            view.note_model(digest, known)
            view.write_parent_status(study.status)  # start_run has moved its end to now
        crown(known, registered_name(study.name))
    return known


def _log_as_new(study: StudyInfo, export: ModelPaths, card: ModelCard, *, run_id: str) -> str:
    import mlflow

    try:
        started = mlflow.start_run(run_id=run_id)
        with warnings.catch_warnings(), _copied_code(export) as code, _unvalidated_example(), started:
            warnings.filterwarnings("ignore", message=".*type hints", category=UserWarning)
            logged = mlflow.pyfunc.log_model(
                name="classifier",
                registered_model_name=registered_name(study.name),
                python_model=str(SERVING_FILE),
                artifacts={"export": export.directory.as_uri()},
                code_paths=[str(code)],
                signature=_make_signature(card),
                input_example=make_input_example(card.image_size),
                pip_requirements=_list_requirements(),
                metadata={
                    name: card.facts.get(name)
                    for name in ("classes", "backbone", "study", "trial", "metrics")
                },
            )
    except mlflow.exceptions.MlflowException as error:  # whose first line never tells this cause
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        place = gettempdir()
        raise OSError(f"no space is left in {place}, or on MLflow's disk: TMPDIR names another") from error
    return str(logged.model_uri)


def crown(model_uri: str, name: str) -> None:
    """Let the alias `champion` of a registered model name the version of a logged one, unless it does.

    A logged model whose version was deleted is registered again.
    """
    import mlflow

    client = mlflow.MlflowClient()
    model_id = model_uri.removeprefix("models:/")
    versions = [
        int(one.version)
        for one in client.search_model_versions(f"name = '{name}'")
        if one.model_id == model_id or one.source == model_uri
    ]
    version = max(versions) if versions else int(mlflow.register_model(model_uri, name).version)
    named = client.get_registered_model(name).aliases.get(CHAMPION)
    if str(named) != str(version):  # a database's aliases are numbers, a server's are text
        client.set_registered_model_alias(name, CHAMPION, str(version))


@contextmanager
def tracking_to(uri: str) -> Iterator[None]:
    """Let MLflow's functions write to an address, and to the one of before again afterwards."""
    import mlflow

    previous, variable = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)  # which also sets the variable, for child processes
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


@contextmanager
def _unvalidated_example() -> Iterator[None]:
    """Let MLflow take the example of a request as it is: to try it, it loads torch and the model, for 4 s.

    The model's directory was compared with its members when it was written.
    """
    from mlflow.models import utils

    before = utils._validate_serving_input
    utils._validate_serving_input = lambda **_: None
    try:
        yield
    finally:
        utils._validate_serving_input = before


@contextmanager
def _copied_code(export: ModelPaths) -> Iterator[Path]:
    """Yield a package `contract` of CODE_FILES, as the export has them: the model carries it as its code."""
    source = export.code / "contract"
    if not all((source / name).is_file() for name in CODE_FILES):  # an export of before there was a copy
        source = Path(contract.model_layout.__file__).parent
    with TemporaryDirectory() as root:
        package = Path(root) / "contract"
        package.mkdir()
        for name in CODE_FILES:
            shutil.copy(source / name, package)
        (package / "__init__.py").touch()
        yield package


def _list_requirements() -> list[str]:
    plugins = [name for name in PLUGINS if any(distributions(name=name))]
    return [f"{name}=={version(name)}" for name in (*REQUIREMENTS, *plugins)]


def registered_name(study: str) -> str:
    """Replace the characters of a study's name that MLflow's registry, or a URI models:/NAME/1, refuses."""
    return re.sub(r"[^\w +-]", "_", printable(study))


def make_input_example(image_size: int) -> pd.DataFrame:
    """Make a request as the server takes it: one grey PNG as base64."""
    import pandas as pd
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (image_size, image_size), "grey").save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode("ascii")]})


def _make_signature(card: ModelCard) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Map

    # AnyType: base64 text from JSON and raw bytes from Python both pass.
    # None of an image that cannot be read but what is wrong with it, which else is missing.
    kinds = {"label": DataType.string, "probability": DataType.double}
    kinds |= {"second": DataType.string, "second_probability": DataType.double}
    kinds |= {"probabilities": Map(DataType.double), "error": DataType.string}
    if card.set_thresholds:
        kinds["set"] = Array(DataType.string)
    if card.unknown:
        kinds["known"] = DataType.boolean
    outputs = [ColSpec(kind, name, required=False) for name, kind in kinds.items()]
    return ModelSignature(inputs=Schema([ColSpec(AnyType(), "image")]), outputs=Schema(outputs))
