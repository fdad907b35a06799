"""Leases served by a group of workers without a search."""

from __future__ import annotations

from contract.messages import Lease, LeasedTrial, StudySettings
from trainables.distributed import WorkerGroup
from trainables.orders import Answer, Order


def serve(
    group: WorkerGroup, settings: StudySettings, leased: LeasedTrial, *, epochs: int | None = None
) -> list[Answer]:
    """Answers to the first epochs of a lease, or to all until it ends."""
    order = Order(lease=Lease(trials=(leased,)).as_config(settings.as_values()))
    answers = [group.follow(order)]
    while not answers[-1].finished and len(answers) != epochs:
        answers.append(group.follow(Order()))
    return answers
