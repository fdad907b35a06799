"""What an MLflow experiment shows of a study beside its runs: the data set, the columns, the report."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from analysis.reading import StudyInfo

DATASET_TAG = "unfreeze.dataset"
REPORT_TAG = "unfreeze.report"
MODEL_TAG = "unfreeze.model"
"""Hashes of what was logged: the same again is not logged again. The model's address follows its hash."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it the UI opens on its pages for language models."""

VIEW = "leaderboard"
"""Name of the shared view: add `?viewStateShareKey=leaderboard` to the address of the experiment's runs."""


def experiment_tags(study: StudyInfo) -> dict[str, str]:
    """The kind of experiment, and a shared view: ranked by the metric, showing what was searched."""
    searched = [row["name"] for row in study.facts.get("space_table") or []]
    columns = ["attributes.`Duration`", f"metrics.`best_{study.metric}`", "metrics.`val_loss`"]
    columns += [f"params.`{name}`" for name in searched[:12]] + ["tags.`state`"]
    view = {
        "orderByKey": f"metrics.`best_{study.metric}`",
        "orderByAsc": not study.maximize,
        "selectedColumns": columns,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
    }
    return KIND | {f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}


def log_dataset(client: Any, run_id: str, study: StudyInfo, *, logged: str | None) -> str | None:
    """Log the study's data as the run's input; its digest, None without a fingerprint."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = study.facts.get("data") or {}
    digest = str(data.get("fingerprint") or "")[:36]
    if not digest or logged == digest:
        return digest or None
    counts = {name: data[name] for name in ("num_train", "num_val", "num_test") if name in data}
    profile = counts | {"num_classes": len(data.get("classes") or [])}
    dataset = Dataset(
        name=study.data or "data",
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": str(data.get("source", ""))}),
        schema=None,
        profile=json.dumps(profile),
    )
    tags = [InputTag(key="mlflow.data.context", value="search")]
    client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=tags)])
    client.set_tag(run_id, DATASET_TAG, digest)
    return digest


def log_report(client: Any, run_id: str, study: StudyInfo, *, logged: str | None) -> str | None:
    """Log report.html as the run's artifact if it is new; its hash, None without a report."""
    path = study.directory / "report.html"
    if not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if logged != digest:
        client.log_artifact(run_id, str(path))
        client.set_tag(run_id, REPORT_TAG, digest)
    return digest
