"""Creates, finds (by tag), fills and closes the experiment and runs of one study in MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.reading import Row, StudyInfo
from analysis.tracking import runs
from analysis.tracking.answer import ANSWER_TAG, describe_answer_run
from analysis.tracking.finals import FINAL_TAG, describe_final, find_lacking
from analysis.tracking.following import StudyFollower, TrialChange
from contract.files import printable
from contract.messages import State
from contract.sqlite_files import sqlite_path
from contract.study_layout import StudyStatus

MAX_METRICS = 800
MAX_PARAMS = 90
"""Most entries in one log_batch call: MLflow takes 1,000 in all, 100 of them parameters."""

DATASET_TAG = "unfreeze.dataset"
REPORT_TAG = "unfreeze.report"
MODEL_TAG = "unfreeze.model"
"""Tags with the hash of a logged file, which is then not logged again; a model's address follows it."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment: without it the UI opens on its pages for language models."""

VIEW = "leaderboard"
"""Name of the shared view: add `?viewStateShareKey=leaderboard` to the address of the experiment's runs."""


@dataclass
class _Run:
    """State of one trial's run in MLflow."""

    run_id: str
    epochs: int = 0
    is_closed: bool = False


class MlflowView:
    """State of one study in MLflow; `catch_up` writes what is missing."""

    def __init__(self, study: StudyInfo, tracking_uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri)
        self._study = study
        self._follower = StudyFollower(study)
        self._trials: dict[int, _Run] = {}
        self._finals: dict[int, _Run] = {}
        self._ended: dict[int, tuple[Row, float | None]] = {}
        self._num_summed = 0
        self._logged: dict[str, str | None] = {}
        self._experiment_id = self._open_experiment(tracking_uri)
        self.parent_id = ""
        self._parent_status = "RUNNING"
        self._find_runs()

    def catch_up(self, *, status: StudyStatus, is_abandoned: Callable[[], bool] = lambda: False) -> int:
        """Write what MLflow lacks of the study database, and return the number of runs written.

        Args:
            status: how the study stands.
            is_abandoned: asked before each trial; true ends the work.
        """
        written = {trial: run.epochs for trial, run in self._trials.items()}
        closed = {trial for trial, run in self._trials.items() if run.is_closed}
        known = set(self._ended)
        changes = self._follower.read_changes(written_epochs=written, closed=closed & known)
        changes = [change for change in changes if not self._note_end(change, closed)]
        for change in changes:
            if is_abandoned():
                return 0
            self._write_trial(change)
        num_finals = self._write_finals()
        self._write_summary(status)
        self._write_answer()
        self._write_inputs(status)
        self._follower.confirm()
        return len(changes) + num_finals

    def _note_end(self, change: TrialChange, closed: set[int]) -> bool:
        """Remember an ended trial for the summary; true if MLflow has all of it already."""
        trial = change.row["trial"]
        if change.is_ended:
            self._ended[trial] = (change.row, change.value)
        return trial in closed and not change.epochs

    def _open_experiment(self, tracking_uri: str) -> str:
        found = self._client.get_experiment_by_name(self._study.name)
        if found is None:
            is_local = sqlite_path(tracking_uri) is not None
            location = self._study.paths.tracking_artifacts.as_uri() if is_local else None
            created = self._client.create_experiment(self._study.name, artifact_location=location)
            for name, value in experiment_tags(self._study).items():
                self._client.set_experiment_tag(created, name, value)
            return str(created)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        for name, value in experiment_tags(self._study).items():
            if found.tags.get(name) != value:  # of a study of before that had the name
                self._client.set_experiment_tag(found.experiment_id, name, value)
        return str(found.experiment_id)

    def _find_runs(self) -> None:
        """Find this study's runs by their tags, and restore those that were deleted in the UI."""
        for run in self._search_all():
            tags = run.data.tags
            if tags.get(runs.STUDY_TAG) != self._study.key:
                continue
            if run.info.lifecycle_stage == "deleted":
                self._client.restore_run(run.info.run_id)
            num_written = int(tags.get(runs.EPOCHS_TAG, 0))
            is_closed = run.info.status in ("FINISHED", "FAILED", "KILLED")
            if FINAL_TAG in tags:
                self._finals[int(tags[FINAL_TAG])] = _Run(run.info.run_id, is_closed=is_closed)
                continue
            if runs.TRIAL_TAG not in tags:
                self.parent_id, self._num_summed = run.info.run_id, num_written
                self._parent_status = run.info.status
                self._logged = dict(tags)
                continue
            self._trials[int(tags[runs.TRIAL_TAG])] = _Run(run.info.run_id, num_written, is_closed)
        if not self.parent_id:
            self.parent_id = self._create_parent()
            for found in (
                *self._trials.values(),
                *self._finals.values(),
            ):  # their own parent was removed for good
                self._client.set_tag(found.run_id, "mlflow.parentRunId", self.parent_id)

    def _search_all(self) -> Iterator[Any]:
        from mlflow.entities import ViewType

        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], "", ViewType.ALL, 1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _create_parent(self) -> str:
        tags = {runs.STUDY_TAG: self._study.key, "space": self._study.space, "data": self._study.data}
        run = self._client.create_run(
            self._experiment_id,
            run_name=self._study.name,
            tags=tags,
            start_time=runs.study_start(self._study),
        )
        self._log(run.info.run_id, params=runs.study_params(self._study))
        return str(run.info.run_id)

    def _write_trial(self, change: TrialChange) -> None:
        row = change.row
        run = self._trials.get(row["trial"])
        tags = runs.trial_tags(self._study, row)
        params: dict[str, str] = {}
        if run is None:
            created = self._client.create_run(
                self._experiment_id,
                run_name=runs.trial_name(row),
                tags=tags | {"mlflow.parentRunId": self.parent_id},
                start_time=runs.to_milliseconds(row["started"]),
            )
            run = self._trials[row["trial"]] = _Run(created.info.run_id)
            tags = {}
        if run.epochs == 0:
            params = runs.trial_params(row)
        newest = change.epochs[-1].epoch if change.epochs else run.epochs
        tags = (tags if change.is_ended else {}) | {runs.EPOCHS_TAG: str(newest)}
        self._log(
            run.run_id, points=runs.trial_points(change, metric=self._study.metric), params=params, tags=tags
        )
        run.epochs = newest
        if change.is_ended:
            ended = runs.to_milliseconds(row["ended"])
            self._client.set_terminated(run.run_id, runs.STATUSES[row["state"]], end_time=ended)
            run.is_closed = True

    def _write_finals(self) -> int:
        """Write the final trainings that have ended, each once; returns their number."""
        written = {number for number, run in self._finals.items() if run.is_closed}
        lacking = find_lacking(self._study, written=written)
        for one in lacking:
            told = describe_final(self._study, one)
            run = self._finals.get(one.final)
            if run is None:
                created = self._client.create_run(
                    self._experiment_id,
                    run_name=told.name,
                    tags=told.tags | {"mlflow.parentRunId": self.parent_id},
                    start_time=told.started,
                )
                run = self._finals[one.final] = _Run(created.info.run_id)
            self._log(run.run_id, points=told.points, params=told.params)
            self._client.set_terminated(run.run_id, told.status, end_time=told.ended)
            run.is_closed = True
        return len(lacking)

    def _write_summary(self, status: StudyStatus) -> None:
        ended = self._ended_in_order()
        if len(ended) > self._num_summed:
            points = [point for point in runs.study_points(self._study, ended) if point[3] > self._num_summed]
            tags = {runs.EPOCHS_TAG: str(len(ended))}
            best = self._best_trial()
            if best is not None:
                tags["best_trial"] = str(best)
            self._log(self.parent_id, points=points, tags=tags)
            self._num_summed = len(ended)
        if self._parent_status != runs.PARENT_STATUSES[status]:
            self.write_parent_status(status)

    def _write_answer(self) -> None:
        """Log what the answer is and its scores, unless MLflow has them; a later answer replaces them."""
        told = describe_answer_run(self._study)
        if told is None or self._logged.get(ANSWER_TAG) == told.tags[ANSWER_TAG]:
            return
        self._log(self.parent_id, points=told.points, tags=told.tags)
        self._logged[ANSWER_TAG] = told.tags[ANSWER_TAG]

    def _write_inputs(self, status: StudyStatus) -> None:
        """Log the data set at once, and the report page when the search is over; neither a second time."""
        client, run_id, logged = self._client, self.parent_id, self._logged
        tag = DATASET_TAG
        logged[tag] = log_dataset(client, run_id, self._study, logged=logged.get(tag))
        if status in (StudyStatus.FINISHED, StudyStatus.STOPPED):
            tag = REPORT_TAG
            logged[tag] = log_report(client, run_id, self._study, logged=logged.get(tag))

    def write_parent_status(self, status: StudyStatus) -> None:
        """Set the status of the study's run, which ends when its last trial ended."""
        wanted = runs.PARENT_STATUSES[status]
        if wanted == "RUNNING":
            self._client.update_run(self.parent_id, wanted)
        else:
            ended = self._ended_in_order()
            end = runs.to_milliseconds(ended[-1][0]["ended"]) if ended else None
            self._client.set_terminated(self.parent_id, wanted, end_time=end)
        self._parent_status = wanted

    def logged_model(self, digest: str) -> str | None:
        """Find the address of the model that was logged for the export with this digest; None without one."""
        logged, _, uri = (self._logged.get(MODEL_TAG) or "").partition(" ")
        return uri if logged == digest else None

    def note_model(self, digest: str, uri: str) -> None:
        """Remember, in MLflow itself, for which export the model was logged."""
        self._logged[MODEL_TAG] = f"{digest} {uri}"
        self._client.set_tag(self.parent_id, MODEL_TAG, f"{digest} {uri}")

    def _ended_in_order(self) -> list[tuple[Row, float | None]]:
        return sorted(self._ended.values(), key=lambda item: (item[0]["ended"] or 0.0, item[0]["trial"]))

    def _best_trial(self) -> int | None:
        sign = self._study.direction.sign
        ranked = [
            (sign * value, -trial)
            for trial, (row, value) in self._ended.items()
            if value is not None and State(row["state"]).has_value
        ]
        return -max(ranked)[1] if ranked else None

    def _log(
        self,
        run_id: str,
        *,
        points: Sequence[runs.Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log to a run, tags last: they say what is written, so a crash in between writes the same again."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, moment, step) for name, value, moment, step in points]
        all_params = [Param(name, value) for name, value in (params or {}).items()]
        while len(metrics) > MAX_METRICS:
            self._client.log_batch(run_id, metrics=metrics[:MAX_METRICS])
            metrics = metrics[MAX_METRICS:]
        while len(all_params) > MAX_PARAMS:
            self._client.log_batch(run_id, params=all_params[:MAX_PARAMS])
            all_params = all_params[MAX_PARAMS:]
        all_tags = [RunTag(name, value) for name, value in (tags or {}).items()]
        self._client.log_batch(run_id, metrics=metrics, params=all_params, tags=all_tags)


def experiment_tags(study: StudyInfo) -> dict[str, str]:
    """Make a new experiment's tags: its kind, and a shared view that ranks trials by the study's metric."""
    searched = [row["name"] for row in study.facts.get("space_table") or []]
    columns = ["attributes.`Duration`", f"metrics.`best_{study.metric}`", "metrics.`val_loss`"]
    columns += [f"params.`{name}`" for name in searched] + ["tags.`state`"]
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
    """Log the study's data as the run's input unless that was done; return its digest, None without one."""
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
        source=json.dumps({"uri": printable(data.get("source", ""))}),
        schema=None,
        profile=json.dumps(profile),
    )
    tags = [InputTag(key="mlflow.data.context", value="search")]
    client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=tags)])
    client.set_tag(run_id, DATASET_TAG, digest)
    return digest


def log_report(client: Any, run_id: str, study: StudyInfo, *, logged: str | None) -> str | None:
    """Log the report page as the run's artifact unless it is; returns its hash, None without a page."""
    path = study.paths.report
    if not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if logged != digest:
        client.log_artifact(run_id, str(path))
        client.set_tag(run_id, REPORT_TAG, digest)
    return digest
