"""Requests that come together are computed together, and each gets its own back."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from serving.server.batches import Batches


def make(compute, *, most: int = 8, sizes: list[int] | None = None, read=str) -> Batches:
    return Batches(
        read,
        compute,
        most=most,
        readers=ThreadPoolExecutor(2),
        computer=ThreadPoolExecutor(1),
        on_batch=(sizes if sizes is not None else []).append,
    )


def test_whatever_came_while_the_program_was_busy_is_one_batch() -> None:
    sizes: list[int] = []
    go = Event()

    def compute(read: list[str]) -> list[str]:
        go.wait(10)
        return [one + "!" for one in read]

    async def ask() -> list[list[str]]:
        batches = make(compute, sizes=sizes)
        first = asyncio.create_task(batches.add([0]))
        second = asyncio.create_task(batches.add([1]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batches.add([number, number])) for number in range(2, 9)]
        await asyncio.sleep(0.05)
        go.set()
        return list(await asyncio.gather(first, second, *others))

    found = asyncio.run(ask())

    assert found == [["0!"], ["1!"], *([f"{number}!"] * 2 for number in range(2, 9))]
    assert max(sizes) == 8
    assert sum(sizes) == 16


def test_more_than_a_batch_holds_is_computed_in_several() -> None:
    sizes: list[int] = []

    found = asyncio.run(make(lambda read: read, most=4, sizes=sizes).add(range(10)))

    assert found == [str(number) for number in range(10)]
    assert sizes == [4, 4, 2]


def test_an_error_is_told_to_all_of_the_batch_and_the_next_goes_on() -> None:
    def compute(read: list[str]) -> list[str]:
        if "bad" in read:
            raise RuntimeError("out of memory")
        return read

    def read(one: str) -> str:
        if one == "unreadable":
            raise ValueError("a fault of reading")
        return one

    async def ask() -> list[str]:
        batches = make(compute, read=read)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batches.add(["bad"])
        with pytest.raises(ValueError, match="a fault of reading"):
            await batches.add(["unreadable"])
        return await batches.add(["good"])

    assert asyncio.run(ask()) == ["good"]


def test_a_client_that_has_gone_is_left_out_and_the_others_are_answered() -> None:
    go = Event()

    def compute(read: list[str]) -> list[str]:
        go.wait(10)
        return read

    async def ask() -> list[str]:
        batches = make(compute)
        tasks = [asyncio.create_task(batches.add([number])) for number in range(6)]
        await asyncio.sleep(0.05)
        for task in tasks[:5]:
            task.cancel()
        go.set()
        return await tasks[5]

    assert asyncio.run(ask()) == ["5"]
