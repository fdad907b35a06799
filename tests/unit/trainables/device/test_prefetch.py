"""Batches are made in order, at most one ahead, and errors of making them are raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from trainables.device.prefetch import in_background, one_ahead, to_device


def threads() -> int:
    return sum(thread.name == "next batch" for thread in threading.enumerate())


def test_items_come_in_the_order_they_were_made() -> None:
    assert list(in_background(iter(range(50)))) == list(range(50))
    assert threads() == 0


def test_the_next_item_is_made_while_one_is_in_use_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    taken = in_background(items())
    next(taken)
    deadline = time.monotonic() + 60
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # time for one too many

    # One in use, one waiting, and one in the hands of the thread.
    assert made == [0, 1, 2]
    taken.close()  # type: ignore[attr-defined]


def test_an_error_of_the_maker_is_raised_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise torch.OutOfMemoryError("no room for the next batch")

    taken = in_background(items())

    assert next(taken) == 1
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        next(taken)
    assert threads() == 0


def test_the_thread_ends_where_its_items_are_no_longer_wanted() -> None:
    taken = in_background(iter(range(1000)))
    next(taken)
    assert threads() == 1

    taken.close()  # type: ignore[attr-defined]

    assert threads() == 0


def test_on_a_cpu_batches_are_made_when_asked_for() -> None:
    batches = iter([(torch.zeros(1), torch.zeros(1))])

    assert one_ahead(batches, torch.device("cpu")) is batches


def test_rows_reach_the_device_unchanged() -> None:
    rows = np.arange(24, dtype=np.float16).reshape(4, 6)[:, ::2]

    assert torch.equal(to_device(rows, torch.device("cpu")), torch.from_numpy(rows.copy()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_batches_arrive_whole() -> None:
    device = torch.device("cuda")
    rows = [np.full((64, 1000), number, dtype=np.float32) for number in range(20)]
    batches = ((to_device(row, device) + 0, torch.zeros(1, device=device)) for row in rows)

    sums = [float(inputs.double().sum()) for inputs, _ in one_ahead(batches, device)]

    assert sums == [64_000.0 * number for number in range(20)]
