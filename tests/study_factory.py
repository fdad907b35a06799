"""Synthetic study directories for tests, written the way a search writes them but without running one."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import optuna
from sqlalchemy import text

from benchmarks.leaderboard import fake_metrics
from contract.trial_config import config_as_dict, make_trial_config

CLASSES = ("daisy", "rose", "tulipán")
STARTED = 1_760_000_000.0
OPTUNA_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "infeasible": "PRUNED"}
CREATE_EPOCHS = """CREATE TABLE IF NOT EXISTS epochs (
    study_id INTEGER NOT NULL, trial INTEGER NOT NULL, epoch INTEGER NOT NULL, attempt INTEGER NOT NULL,
    metrics TEXT NOT NULL, arrival DOUBLE PRECISION NOT NULL, decision TEXT NOT NULL,
    predicted BYTEA, PRIMARY KEY (study_id, trial, epoch))"""


@dataclass(frozen=True, kw_only=True)
class FakeTrial:
    """One trial of a synthetic study: its curve, how it ended, its configuration."""

    curve: Sequence[float] = (0.5,)
    """Validation accuracy of each epoch."""

    outcome: str | None = "complete"
    """None: still running."""

    config: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """More user attributes: reason, traceback, recipe."""

    distributions: Mapping[str, optuna.distributions.BaseDistribution] = field(default_factory=dict)
    """Those of the hyperparameters in `config` that were searched; the learning rate always is."""

    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values of more metrics, one an epoch, by name."""


def make_study(
    directory: Path, trials: Sequence[FakeTrial], *, status: str = "finished", seed: int = 0, **facts: Any
) -> Path:
    """A study directory whose name is the study's; further keywords replace entries of study.json."""
    directory.mkdir(parents=True)
    document = _study_facts(directory, status=status, seed=seed) | facts
    (directory / "study.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(document["storage"])
    optuna.create_study(storage=storage, study_name=document["study"], direction=document["direction"])
    with storage.engine.begin() as connection:
        connection.execute(text(CREATE_EPOCHS))
        if storage.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
    storage.engine.dispose()
    add_trials(directory, trials)
    _write_data(directory)
    return directory


def add_trials(directory: Path, trials: Sequence[FakeTrial]) -> None:
    """Append trials to the study, with their epochs and predictions."""
    document = json.loads((directory / "study.json").read_text(encoding="utf-8"))
    storage = optuna.storages.RDBStorage(document["storage"], skip_table_creation=True)
    study_id = storage.get_study_id_from_name(document["study"])
    first = len(storage.get_all_trials(study_id, deepcopy=False))
    for number, trial in enumerate(trials, start=first):
        storage.create_new_trial(study_id, template_trial=_frozen_trial(trial, number))
        record_epochs(directory, number, trial.curve, metrics=trial.metrics)
        if trial.curve and trial.outcome in ("complete", "pruned"):
            _write_predictions(directory / "trials" / str(number), accuracy=max(trial.curve), seed=number)
    storage.engine.dispose()


def record_epochs(
    directory: Path,
    trial: int,
    curve: Sequence[float],
    *,
    first_epoch: int = 1,
    metrics: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write epochs of one trial into the table `epochs`; the same epoch again replaces the old row."""
    document = json.loads((directory / "study.json").read_text(encoding="utf-8"))
    storage = optuna.storages.RDBStorage(document["storage"], skip_table_creation=True)
    study_id = storage.get_study_id_from_name(document["study"])
    insert = text(
        "INSERT INTO epochs VALUES (:study, :trial, :epoch, 1, :metrics, :arrival, 'continue', NULL) "
        "ON CONFLICT (study_id, trial, epoch) DO UPDATE SET metrics = excluded.metrics"
    )
    rows = [
        {
            "study": study_id,
            "trial": trial,
            "epoch": epoch,
            "metrics": json.dumps(
                fake_metrics(accuracy, epoch=epoch)
                | {name: values[index] for name, values in (metrics or {}).items()}
            ),
            "arrival": STARTED + 100.0 * trial + epoch,
        }
        for index, (epoch, accuracy) in enumerate(enumerate(curve, start=first_epoch))
    ]
    if rows:
        with storage.engine.begin() as connection:
            connection.execute(insert, rows)
    storage.engine.dispose()


def end_trial(
    directory: Path, trial: int, *, outcome: str, value: float | None = None, **attributes: Any
) -> None:
    """End a running trial."""
    document = json.loads((directory / "study.json").read_text(encoding="utf-8"))
    storage = optuna.storages.RDBStorage(document["storage"], skip_table_creation=True)
    study_id = storage.get_study_id_from_name(document["study"])
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial)
    for key, attribute in ({"outcome": outcome, "attempts": 1, "seconds": 9.0} | attributes).items():
        storage.set_trial_user_attr(trial_id, key, attribute)
    state = optuna.trial.TrialState[OPTUNA_STATES[outcome]]
    storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    storage.engine.dispose()


def _study_facts(directory: Path, *, status: str, seed: int) -> dict[str, Any]:
    return {
        "study": directory.name,
        "created": "2026-01-02T03:04:05",
        "space": "finetune",
        "metric": "val_accuracy",
        "direction": "maximize",
        "flags": {"space": "finetune", "data": "flowers", "trials": 12},
        "versions": {"python": "3.11", "torch": "2.15.0"},
        "git_revision": "0000000",
        "data": {
            "source": "/photos/flowers",
            "contents": "c1",
            "fingerprint": f"split {seed} of c1",
            "classes": list(CLASSES),
            "num_train": 7,
            "num_val": 30,
            "num_test": 1,
        },
        "image_size": 128,
        "max_epochs": 10,
        "weights": "auto",
        "seed": seed,
        "storage": f"sqlite:///{quote(str(directory / 'study.db'))}",
        "tracking_uri": f"sqlite:///{quote(str(directory.parent / 'mlflow.db'))}",
        "space_table": [{"name": "learning_rate", "values": "1e-5 .. 1e-2, log"}],
        "status": status,
        "hardware": "2 CPUs",
    }


def _frozen_trial(trial: FakeTrial, number: int) -> optuna.trial.FrozenTrial:
    rate = 1e-4 * (number + 1)
    # The predictions of a made-up trial are those of its best epoch.
    defaults = {"backbone": "lite0", "learning_rate": rate, "kept_epoch": "best"}
    config = make_trial_config(defaults | dict(trial.config))
    attributes: dict[str, Any] = {"config": config_as_dict(config)}
    if trial.outcome is not None:
        attributes |= {
            "outcome": trial.outcome,
            "attempts": 1,
            "worker": "localhost",
            "seconds": 2.5 * len(trial.curve),
        }
    finite = [value for value in trial.curve if np.isfinite(value)]
    has_value = trial.outcome in ("complete", "pruned") and finite
    started = datetime.fromtimestamp(STARTED + 100.0 * number, UTC)
    ended = datetime.fromtimestamp(STARTED + 100.0 * number + len(trial.curve) + 0.5, UTC)
    rates = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    distributions = {"learning_rate": rates} | dict(trial.distributions)
    frozen = optuna.trial.create_trial(
        state=optuna.trial.TrialState[OPTUNA_STATES.get(trial.outcome or "", "RUNNING")],
        value=max(finite) if has_value else None,
        params={name: getattr(config, name) for name in distributions},
        distributions=distributions,
        user_attrs=attributes | dict(trial.attributes),
    )
    frozen.datetime_start = started.astimezone().replace(tzinfo=None)
    frozen.datetime_complete = ended.astimezone().replace(tzinfo=None) if trial.outcome else None
    return frozen


def _write_data(directory: Path) -> None:
    splits = ["train"] * 7 + ["val"] * 30 + ["test"]
    with (directory / "data.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "split"])
        writer.writerows(
            [i, f"/photos/flowers/{i}.jpg", i % len(CLASSES), split] for i, split in enumerate(splits)
        )


def _write_predictions(directory: Path, *, accuracy: float, seed: int) -> None:
    """Probabilities over the 30 validation images of which a share `accuracy` is right."""
    directory.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    ids = np.arange(7, 37)
    labels = ids % len(CLASSES)
    is_right = generator.permutation(len(ids)) < round(accuracy * len(ids))
    predicted = np.where(is_right, labels, (labels + 1) % len(CLASSES))
    probabilities = np.full((len(ids), len(CLASSES)), 0.1)
    probabilities[np.arange(len(ids)), predicted] = 0.8
    np.savez(
        directory / "predictions.npz",
        ids=ids.astype(np.int64),
        labels=labels.astype(np.int64),
        log_probabilities=np.log(probabilities).astype(np.float32),
    )
