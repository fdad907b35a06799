"""Ray's own OptunaSearch and ASHAScheduler, driven by the same simulated workers as our search."""

from __future__ import annotations

import heapq
import logging
from typing import Any

import numpy as np

from benchmarks.quality.replay import LEASE_SECONDS, Clock, Replayed, World
from benchmarks.quality.rows import MAX_EPOCHS

METRIC = "val_accuracy"


class _Trial:
    """What ASHAScheduler reads of a trial."""

    def __init__(self, trial_id: str, row: int, training: int) -> None:
        self.trial_id, self.row, self.training = trial_id, row, training
        self.epochs, self.is_stopped = 0, False

    def __str__(self) -> str:
        return self.trial_id


def replay_rival(
    world: World, *, num_trials: int, slots: int, seed: int, seconds: float = np.inf
) -> Replayed:
    """Run one study as a user of Ray Tune would, with the defaults of both classes, and take its best result.

    The result is the trial whose last report is best, as `ResultGrid.get_best_result` has it. The recipes are
    given to the searcher as points to evaluate first.
    """
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    logging.getLogger("ray").setLevel(logging.ERROR)
    clock, table = Clock(world.table), world.table
    first = [{name: config[name] for name in world.distributions} for _, config in world.recipes()]
    search = OptunaSearch(
        space=dict(world.distributions), metric=METRIC, mode="max", seed=seed, points_to_evaluate=first
    )
    scheduler = ASHAScheduler(metric=METRIC, mode="max", max_t=MAX_EPOCHS)
    taken: list[int] = []
    trials: list[_Trial] = []
    running: dict[int, _Trial] = {}
    queue = [(0.0, slot) for slot in range(slots)]
    limit = min(num_trials, len(world.rows) // 4)
    while queue:
        now, slot = heapq.heappop(queue)
        if now > seconds:
            break
        clock.now = now
        trial = running.get(slot)
        if trial is not None and not _report(trial, search, scheduler, table):
            del running[slot]
            trial = None
        if trial is None:
            if len(trials) >= limit:
                continue
            wanted: Any = search.suggest(f"t{len(trials)}")
            row = world.nearest(wanted, taken)
            taken.append(row.number)
            trial = _Trial(f"t{len(trials)}", row.number, table.training(row.number, seed))
            trials.append(trial)
            running[slot] = trial
            scheduler.on_trial_add(None, trial)
            now += LEASE_SECONDS
        config = world.config_of[trial.row]
        heapq.heappush(queue, (now + clock.epoch_seconds(trial.training, config, trial.epochs + 1), slot))
    reported = [trial for trial in trials if trial.epochs]
    best = max(reported, key=lambda trial: table.val_accuracy[trial.training, trial.epochs - 1])
    tests = [table.test_accuracy[at, best.epochs - 1] for at in table.trainings[best.row]]
    return Replayed(
        row=best.row,
        test_accuracy=float(np.mean(tests)),
        seconds=clock.now,
        trials=len(trials),
        complete=sum(trial.epochs == MAX_EPOCHS for trial in trials),
    )


def _report(trial: _Trial, search: Any, scheduler: Any, table: Any) -> bool:
    """Report an epoch; False if the trial ends with it."""
    trial.epochs += 1
    accuracy = float(table.val_accuracy[trial.training, trial.epochs - 1])
    result = {METRIC: accuracy, "training_iteration": trial.epochs, "done": trial.epochs == MAX_EPOCHS}
    if trial.epochs < MAX_EPOCHS:
        search.on_trial_result(trial.trial_id, result)
        if scheduler.on_trial_result(None, trial, result) == "CONTINUE":
            return True
    scheduler.on_trial_complete(None, trial, result)
    search.on_trial_complete(trial.trial_id, result)
    return False
