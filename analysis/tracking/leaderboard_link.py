"""Says where MLflow shows a study's runs, sorted by the study's metric with the searched columns."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlencode

from analysis.reading import load_study
from analysis.tracking.server import find_tracking_uri, public_address, silence_mlflow
from analysis.tracking.view import VIEW

UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` answers unless told otherwise."""


def find_leaderboard(study_dir: Path, tracking_uri: str | None = None) -> str:
    """Find the address of a study's runs in MLflow; of a database, after the command that shows it.

    Order and columns are MLflow's shared view `leaderboard`, a tag of the experiment: no address holds
    columns.

    Raises:
        ValueError: MLflow does not have the study.
    """
    study = load_study(study_dir)
    uri = find_tracking_uri(study, tracking_uri)
    silence_mlflow()
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(uri).get_experiment_by_name(study.name)
    if experiment is None:
        raise ValueError(f"MLflow at {public_address(uri)} has no study {study.name}")
    page = f"/#/experiments/{experiment.experiment_id}/runs?{urlencode({'viewStateShareKey': VIEW})}"
    shown = public_address(uri).rstrip("/")
    if shown.startswith(("http://", "https://")):
        return shown + page
    return f"mlflow ui --backend-store-uri {shlex.quote(shown)}, then {UI}{page}"
