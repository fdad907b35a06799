"""Drives a `Search` without Ray, by a made-up training on a study that a later one takes up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from cluster.schedulers import load_scheduler
from cluster.search.search import DONE, Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.records import Records
from contract.lease_errors import LeaseError
from contract.messages import Action, Lease, Outcome, Report

METRIC = "val_accuracy"
EPOCHS = 9
LOST = LeaseError(message="the node died", transient=True)


def space(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    if trial.suggest_categorical("regime", ("finetune", "linear_probe")) == "finetune":
        trial.suggest_int("unfreeze_depth", 1, 4)
    return {"optimizer": "adamw"}


def make_search(records: Records, **changes: Any) -> Search:
    settings: dict[str, Any] = {
        "space": space,
        "make_sampler": load_searcher("tpe"),
        "scheduler": load_scheduler("asha"),
        "num_trials": 12,
        "seed": 1,
        "metrics": [METRIC],
        "max_epochs": EPOCHS,
        "num_startup": 3,
    }
    settings |= changes
    now = settings.pop("now", time.time)
    return Search(records, SearchSetup(**settings), now=now)


class Study:
    """One study on disk, which a search can leave and another take up."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, f"sqlite:///{path}/study.db"
        self.records: Records | None = None

    def search(self, **changes: Any) -> Search:
        if self.records is not None:
            self.records.close()
        directions = changes.get("directions", ["maximize"])
        self.records = Records(self.url, study="s", directions=directions, metric=METRIC, new=False)
        return make_search(self.records, **changes)

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="s", storage=self.url).trials


def accuracy(config: Mapping[str, Any], epoch: int) -> float:
    """A made-up training: deterministic, best near a learning rate of 1e-3."""
    distance = abs(math.log10(config["learning_rate"]) + 3)
    return round((1 - 0.2 * distance - 0.05 * config.get("unfreeze_depth", 0)) * (1 - 0.5**epoch), 6)


def report(lease: Lease, epoch: int, **changes: Any) -> Report:
    leased = lease.trials[0]
    values: dict[str, Any] = {"metrics": {METRIC: accuracy(leased.config, epoch), "val_loss": 1.0}}
    values["outcome"] = Outcome.COMPLETE if epoch == leased.config["max_epochs"] else None
    return Report(trial=leased.trial, attempt=leased.attempt, epoch=epoch, **values | changes)


def take(search: Search) -> Lease:
    lease = search.next_lease()
    assert isinstance(lease, Lease)
    return lease


def run_lease(search: Search, lease: Lease, *, first_epoch: int | None = None) -> str | None:
    start = lease.trials[0].done_epochs + 1 if first_epoch is None else first_epoch
    for epoch in range(start, EPOCHS + 1):
        decision = search.receive([report(lease, epoch)])[0]
        if decision.action is Action.STOP:
            search.lease_ended(lease)
            return decision.outcome
    raise AssertionError("a trial must end by its last epoch")


def run_all(search: Search) -> None:
    while (lease := search.next_lease()) is not DONE:
        assert isinstance(lease, Lease)
        run_lease(search, lease)


def outcomes(study: Study) -> list[tuple[Any, ...]]:
    keep = ("config", "outcome")
    return [
        (t.number, t.state, t.params, t.values, t.intermediate_values, *(t.user_attrs.get(k) for k in keep))
        for t in study.optuna_trials()
    ]
