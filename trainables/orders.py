"""Hands the orders of a leading process to all workers of a group, and their answers back; knows no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.messages import Report

PATIENCE_SECONDS = 5.0
"""Longest that a worker with an error waits for the others to have the same: all reach it at one place."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What all workers of a group do next: an epoch, or their end."""

    lease: Mapping[str, Any] | None = None
    """Tune config of a lease that begins with this epoch; None goes on with the one before."""

    ends_group: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one worker says after an epoch."""

    reports: tuple[Report, ...]
    """All workers have the same ones; the first one's count."""

    finished: bool
    """The trial has ended."""

    error: str = ""
    """Name of the error that ended the trial on this worker: where all have the same, they live on."""


class _Round:
    """An order, and the answers to it by rank."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.answers: dict[int, Answer] = {}


class Orders:
    """A mailbox that all processes of a group call; its methods run in one event loop.

    Workers are asked for an epoch at a time and wait here in between, where waiting costs nothing and has no
    time limit, and not for each other: a collective operation would keep a GPU busy and run out of time.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._num_rounds = 0
        self._round = _Round(Order())
        self._changed = asyncio.Condition()

    async def give(self, order: Order) -> Answer:
        """Give the next order, and return the first worker's answer once all have answered and agree.

        It never returns where they do not: the group then ends, which is seen elsewhere.
        """
        async with self._changed:
            self._num_rounds += 1
            self._round = given = _Round(order)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._agreed(given))
            return given.answers[0]

    async def take(self, num_taken: int) -> Order:
        """Wait for an order after the first `num_taken`, and return the newest."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._num_rounds > num_taken)
            return self._round.order

    async def answer(self, rank: int, answer: Answer) -> bool:
        """Take a worker's answer; true if the worker can go on to the next order.

        After an error it can if all workers answer with the same within `PATIENCE_SECONDS`: then none is left
        in a collective operation that waits for another.
        """
        async with self._changed:
            given = self._round
            given.answers[rank] = answer
            self._changed.notify_all()
            if not answer.error:
                return True
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._agreed(given)), PATIENCE_SECONDS)
            except TimeoutError:
                return False
            return True

    def _agreed(self, given: _Round) -> bool:
        errors = {answer.error for answer in given.answers.values()}
        return len(given.answers) == self._num_workers and len(errors) == 1
