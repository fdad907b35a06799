"""Orders reach all workers of a group, and their answers come back, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from contract.messages import Report
from trainables import orders as module
from trainables.orders import Answer, Order, Orders

REPORT = Report(trial=3, attempt=1, epoch=1)
FIRST = Answer(reports=(REPORT,), finished=False)
SECOND = Answer(reports=(), finished=False)


def failed(error: str) -> Answer:
    return Answer(reports=(), finished=True, error=error)


async def exchange(*answers: Answer) -> tuple[Answer | None, list[bool]]:
    """What the leader hears of these workers, None if nothing within a moment, and who may go on."""
    orders = Orders(2)
    given = asyncio.create_task(orders.give(Order()))
    await orders.take(0)
    going_on = await asyncio.gather(*(orders.answer(rank, one) for rank, one in enumerate(answers)))
    heard, _ = await asyncio.wait({given}, timeout=0.05)
    given.cancel()
    return (given.result() if heard else None), going_on


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)


def run(work: Coroutine[Any, Any, tuple[Answer | None, list[bool]]]) -> tuple[Answer | None, list[bool]]:
    return asyncio.run(work)


def test_the_leader_hears_the_first_worker_once_all_have_answered() -> None:
    assert run(exchange(FIRST, SECOND)) == (FIRST, [True, True])
    assert run(exchange(FIRST)) == (None, [True])


def test_workers_that_fail_alike_go_on() -> None:
    alike = failed("Diverged: the loss at update 3 is nan")

    assert run(exchange(alike, alike)) == (alike, [True, True])


@pytest.mark.parametrize(
    "answers",
    [
        (failed("KeyError: 'layer'"),),
        (failed("KeyError: 'layer'"), SECOND),
        (failed("KeyError: 'layer'"), failed("RuntimeError: Connection closed by peer")),
    ],
)
def test_a_worker_that_fails_by_itself_does_not_go_on_and_the_leader_hears_nothing(
    answers: tuple[Answer, ...],
) -> None:
    heard, going_on = run(exchange(*answers))

    assert heard is None
    assert not going_on[0]


def test_each_worker_takes_each_order_once_and_an_end_even_where_it_has_missed_one() -> None:
    async def take_all() -> tuple[list[Order], Order]:
        orders = Orders(1)
        taken = []
        for number, order in enumerate([Order(lease={"trials": []}), Order()]):
            given = asyncio.create_task(orders.give(order))
            taken.append(await orders.take(number))
            await orders.answer(0, FIRST)
            await given
        last = [asyncio.create_task(orders.give(one)) for one in (Order(), Order(ends_group=True))]
        await asyncio.sleep(0)
        newest = await orders.take(2)
        for one in last:
            one.cancel()
        return taken, newest

    taken, newest = asyncio.run(take_all())

    assert taken == [Order(lease={"trials": []}), Order()]
    assert newest.ends_group
