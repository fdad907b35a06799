"""Logs an exported classifier as an MLflow model under its study's run, ready to be served."""

from __future__ import annotations

import base64
import errno
import io
import json
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

import contract.decoding
from analysis.reading import StudyInfo, load_study
from analysis.tracking.server import find_tracking_uri, no_stray_folders, only_writer
from analysis.tracking.tracker import open_view
from contract.files import printable
from contract.model_layout import ModelPaths

if TYPE_CHECKING:
    import pandas as pd

SERVING_FILE = Path(__file__).with_name("served_model.py")
"""The model's code: MLflow copies this file and runs it where the model is served."""

SERVED_FILES = (*contract.decoding.FILES, "unknown_score.py")
"""Files of the package `contract` that decode images and score them for unknown classes."""

REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow")
PLUGINS = ("pillow-heif", "pillow-jxl-plugin")
"""Readers of further image formats: a model wants those that were there where it was trained."""


def log_model(study_dir: Path, export_dir: Path, tracking_uri: str | None = None) -> str:
    """Bring MLflow up to date, log and register the export unless that was done, and return the model URI.

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
    facts = json.loads(export.card.read_text(encoding="utf-8"))
    uri = find_tracking_uri(study, tracking_uri)
    view = open_view(study, tracking_uri)
    view.catch_up(status=study.status)
    known = view.logged_model(digest)
    if known is not None:
        return known

    import mlflow

    previous, variable = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        with (
            warnings.catch_warnings(),
            no_stray_folders(uri),
            _copied_decoder() as decoder,
            mlflow.start_run(run_id=view.parent_id),
        ):
            warnings.filterwarnings("ignore", message=".*type hints", category=UserWarning)
            logged = mlflow.pyfunc.log_model(
                name="classifier",
                registered_model_name=registered_name(study.name),
                python_model=str(SERVING_FILE),
                artifacts={"export": export.directory.as_uri()},
                code_paths=[str(decoder)],
                signature=_make_signature(tells_known=bool((facts.get("thresholds") or {}).get("unknown"))),
                input_example=make_input_example(int(facts["image_size"])),
                pip_requirements=_list_requirements(),
                metadata={
                    name: facts.get(name) for name in ("classes", "backbone", "study", "trial", "metrics")
                },
            )
    except mlflow.exceptions.MlflowException as error:  # whose first line never tells this cause
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        place = gettempdir()
        raise OSError(f"no space is left in {place}, or on MLflow's disk: TMPDIR names another") from error
    finally:
        mlflow.set_tracking_uri(previous)  # which also sets the variable, for child processes
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable
    view.note_model(digest, str(logged.model_uri))
    view.write_parent_status(study.status)  # start_run has moved its end to now
    return str(logged.model_uri)


@contextmanager
def _copied_decoder() -> Iterator[Path]:
    """Yield a package `contract` of SERVED_FILES: the model carries it as its code."""
    with TemporaryDirectory() as root:
        package = Path(root) / "contract"
        package.mkdir()
        for name in SERVED_FILES:
            shutil.copy(Path(contract.decoding.__file__).with_name(name), package)
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


def _make_signature(*, tells_known: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map

    # AnyType: base64 text from JSON and raw bytes from Python both pass.
    # None of an image that cannot be read but what is wrong with it, which else is missing.
    kinds = {"label": DataType.string, "probability": DataType.double, "probabilities": Map(DataType.double)}
    outputs = [ColSpec(kind, name, required=False) for name, kind in kinds.items()]
    outputs.append(ColSpec(DataType.string, "error", required=False))
    if tells_known:
        outputs.append(ColSpec(DataType.boolean, "known", required=False))
    return ModelSignature(inputs=Schema([ColSpec(AnyType(), "image")]), outputs=Schema(outputs))
