"""Puts images that wait into one batch, while the one before is computed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

SentT = TypeVar("SentT")
ReadT = TypeVar("ReadT")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[SentT, FoundT]):
    sent: Sequence[SentT]
    done: asyncio.Future[list[FoundT]]


class Batches(Generic[SentT, ReadT, FoundT]):
    """Reads what is sent in several threads, and computes it in batches in one.

    Nobody waits for a batch to fill: it takes all that has come meanwhile, up to `most`. So an idle program
    answers at once, and a busy one in large batches. One batch is read while another is computed; no more
    are held in memory.
    """

    def __init__(
        self,
        read: Callable[[SentT], ReadT],
        compute: Callable[[list[ReadT]], list[FoundT]],
        *,
        most: int,
        readers: ThreadPoolExecutor,
        computer: ThreadPoolExecutor,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._read = read
        self._compute = compute
        self._most = most
        self._readers = readers
        self._computer = computer
        self._on_batch = on_batch
        self._waiting: deque[_Waiting[SentT, FoundT]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._computing: asyncio.Task[None] | None = None

    async def add(self, sent: Sequence[SentT]) -> list[FoundT]:
        """Read and compute; in one batch with others', or in several if there is more than a batch holds.

        Raises:
            Exception: what `read` or `compute` raised, for all of the batch.
        """
        if len(sent) > self._most:
            pieces = [sent[at : at + self._most] for at in range(0, len(sent), self._most)]
            return [one for piece in pieces for one in await self.add(piece)]
        waiting: _Waiting[SentT, FoundT] = _Waiting(sent, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_batches())
        return await waiting.done

    async def _read_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._take():
            calls = [
                loop.run_in_executor(self._readers, self._read, one) for each in batch for one in each.sent
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            if self._computing is not None:
                await self._computing
            error = next((one for one in outcomes if isinstance(one, BaseException)), None)
            if error is not None:
                _fail(batch, error)
                continue
            read: list[ReadT] = [one for one in outcomes if not isinstance(one, BaseException)]
            self._computing = asyncio.create_task(self._compute_batch(batch, read))

    async def _compute_batch(self, batch: list[_Waiting[SentT, FoundT]], read: list[ReadT]) -> None:
        self._on_batch(len(read))
        try:
            loop = asyncio.get_running_loop()
            found = iter(await loop.run_in_executor(self._computer, self._compute, read))
            for waiting in batch:
                own = [next(found) for _ in waiting.sent]
                if not waiting.done.done():  # cancelled: its client has gone
                    waiting.done.set_result(own)
        except Exception as error:  # whatever a model raises is told to all who wait for this batch
            _fail(batch, error)

    def _take(self) -> list[_Waiting[SentT, FoundT]]:
        batch: list[_Waiting[SentT, FoundT]] = []
        room = self._most
        while self._waiting and len(self._waiting[0].sent) <= room:
            first = self._waiting.popleft()
            if not first.done.done():
                batch.append(first)
                room -= len(first.sent)
        return batch


def _fail(batch: Sequence[_Waiting[SentT, FoundT]], error: BaseException) -> None:
    for waiting in batch:
        if not waiting.done.done():
            waiting.done.set_exception(error)
