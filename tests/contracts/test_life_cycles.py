"""Every scheduler and searcher lives through what happens to a search, and the same search comes out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from cluster import schedulers, searchers
from cluster.schedulers import load_scheduler
from cluster.search.search import DONE, Search
from cluster.search.setup import SearchSetup
from cluster.searchers import load_searcher
from cluster.study.records import Records
from contract.lease_errors import LeaseError
from contract.messages import Action, Lease, Outcome, Report

EPOCHS = 9
TRIALS = 12
LOST = LeaseError(message="the node died", transient=True)
PAIRS = [(name, "random") for name in schedulers.names()] + [("asha", name) for name in searchers.names()]
PAIRS.append(("evidence", "guided"))


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Numbers without conditions: what every searcher takes."""
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_int("unfreeze_depth", 0, 4)
    return {"optimizer": "adamw"}


def accuracy(config: Mapping[str, Any], epoch: int) -> float:
    distance = abs(math.log10(config["learning_rate"]) + 3) + config["dropout"]
    return (1 - 0.2 * distance) * (1 - 0.6**epoch)


class Life:
    """A search with accidents: which trial fails how, when a worker dies, when the driver is killed."""

    def __init__(self, folder: Path, scheduler: str, searcher: str, *, slots: int) -> None:
        folder.mkdir()
        self.url = f"sqlite:///{folder}/study.db"
        self.settings = {
            "make_sampler": load_searcher(searcher),
            "scheduler": load_scheduler(scheduler),
        }
        self.slots = slots
        self.records: Records | None = None
        self.search = self.take_up()
        self.running: list[tuple[Lease, int]] = []
        self.attempts: set[tuple[int, int]] = set()

    def take_up(self) -> Search:
        """As after kill -9: nothing was told, nothing closed."""
        if self.records is not None:
            self.records.close()
        self.records = Records(self.url, study="s", directions=["maximize"], metric="val_accuracy", new=False)
        self.running = []
        self.search = Search(
            self.records,
            SearchSetup(
                space=space,
                num_trials=TRIALS,
                seed=5,
                metrics=["val_accuracy"],
                max_epochs=EPOCHS,
                num_startup=9,
                **self.settings,
            ),
        )
        return self.search

    def run(self, *, kills: int = 0, deaths: int = 0, shuffle: int | None = None) -> None:
        dice = random.Random(shuffle or 0)
        at = sorted(dice.sample(range(3, 30), kills + deaths))
        is_kill = dict(zip(dice.sample(at, len(at)), [True] * kills + [False] * deaths, strict=True))
        for step in range(10_000):
            self.fill()
            if not self.running:
                return
            if is_kill.get(step):
                self.take_up()
                continue
            turn = dice.randrange(len(self.running)) if shuffle is not None else 0
            lease, epoch = self.running.pop(turn)
            if step in is_kill:
                self.search.lease_ended(lease, LOST)
                continue
            decision = self.search.receive([self.report(lease, epoch)])[0]
            if decision.action is Action.CONTINUE:
                self.running.append((lease, epoch + 1))
            else:
                self.search.lease_ended(lease)
        raise AssertionError("it does not end")

    def fill(self) -> None:
        while len(self.running) < self.slots:
            lease = self.search.next_lease()
            if not isinstance(lease, Lease):
                assert lease is DONE or self.running, "it waits for nobody"
                return
            leased = lease.trials[0]
            assert (leased.trial, leased.attempt) not in self.attempts, "the same attempt twice"
            self.attempts.add((leased.trial, leased.attempt))
            self.running.append((lease, leased.done_epochs + 1))

    def report(self, lease: Lease, epoch: int) -> Report:
        leased = lease.trials[0]
        metrics = {"val_accuracy": accuracy(leased.config, epoch)}
        if leased.trial == 2 and epoch == 2:
            metrics = {"val_accuracy": math.nan}
        if leased.trial == 4:
            metrics = {"val_loss": 1.0}
        outcome = Outcome.COMPLETE if epoch == EPOCHS else None
        return Report(
            trial=leased.trial, attempt=leased.attempt, epoch=epoch, metrics=metrics, outcome=outcome
        )

    def result(self) -> dict[int, Any]:
        assert self.records is not None
        return {
            record.number: (
                record.attrs["config"],
                record.attrs.get("outcome"),
                record.state,
                record.values,
                {epoch: row.metrics.get("val_accuracy") for epoch, row in record.epochs.items()}
                if record.number not in (2, 4)
                else None,
            )
            for record in self.records.load()
        }


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Any]:
    made: list[Life] = []

    def make(scheduler: str, searcher: str, *, slots: int) -> Life:
        made.append(Life(tmp_path / str(len(made)), scheduler, searcher, slots=slots))
        return made[-1]

    yield make
    for life in made:
        assert life.records is not None
        life.records.close()


@pytest.mark.parametrize(("scheduler", "searcher"), PAIRS)
def test_killed_drivers_and_workers_change_nothing_one_at_a_time(
    lives: Any, scheduler: str, searcher: str
) -> None:
    undisturbed = lives(scheduler, searcher, slots=1)
    undisturbed.run()

    disturbed = lives(scheduler, searcher, slots=1)
    disturbed.run(kills=3, deaths=2)

    assert disturbed.result() == undisturbed.result()
    assert disturbed.search.finished


@pytest.mark.parametrize(("scheduler", "searcher"), PAIRS)
def test_out_of_order_with_accidents_every_trial_ends_once_and_honestly(
    lives: Any, scheduler: str, searcher: str
) -> None:
    life = lives(scheduler, searcher, slots=4)

    life.run(kills=2, deaths=2, shuffle=1)

    result = life.result()
    assert sorted(result) == list(range(TRIALS))
    outcomes = {number: outcome for number, (_, outcome, *_) in result.items()}
    assert outcomes[4] == "failed"
    assert outcomes[2] in ("failed", "pruned")
    assert set(outcomes.values()) <= {"complete", "pruned", "failed"}
    assert "complete" in outcomes.values()
    assert life.search.next_lease() is DONE
    for _, outcome, _, values, curve in result.values():
        assert (outcome == "failed") <= (values == [])
        if curve is not None:
            assert sorted(curve) == list(range(1, len(curve) + 1))
            assert (outcome == "complete") == (len(curve) == EPOCHS)
