"""Runs a search without Ray, in simulated time: its workers are a queue of events."""

from __future__ import annotations

import heapq

import numpy as np

from benchmarks.simulated.learning_curves import Curves
from cluster.search.search import Search
from contract.messages import Action, Lease, Outcome, Report


def run_workers(search: Search, curves: Curves, *, budget: float, slots: int, seed: int) -> int:
    """Spend at most `budget` epochs on `slots` workers, and return the number spent.

    Workers take different times for an epoch, so results arrive out of order, but always in the same order.
    """
    dice = np.random.default_rng(seed)
    speeds = dice.uniform(0.7, 1.3, slots)
    queue: list[tuple[float, int, Lease | None, int]] = [(0.0, slot, None, 0) for slot in range(slots)]
    spent = 0
    while queue and spent < budget:
        now, slot, lease, epoch = heapq.heappop(queue)
        if lease is not None:
            spent += 1
            if _report(search, curves, lease, epoch) == Action.CONTINUE:
                heapq.heappush(queue, (now + speeds[slot], slot, lease, epoch + 1))
                continue
            search.lease_ended(lease)
        following = search.next_lease()
        if isinstance(following, Lease):
            first = following.trials[0].done_epochs + 1
            heapq.heappush(queue, (now + speeds[slot], slot, following, first))
        elif following is None:
            heapq.heappush(queue, (now + 0.5, slot, None, 0))
    return spent


def _report(search: Search, curves: Curves, lease: Lease, epoch: int) -> Action:
    leased = lease.trials[0]
    metrics = {"val_accuracy": curves.accuracy(leased.config, epoch)}
    outcome = Outcome.COMPLETE if epoch >= leased.config["max_epochs"] else None
    report = Report(trial=leased.trial, attempt=leased.attempt, epoch=epoch, metrics=metrics, outcome=outcome)
    return search.receive([report])[0].action
