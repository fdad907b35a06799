"""The stream on which the next batch is made waits for what it reads, and is waited for when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from trainables.device.prefetch import one_ahead


class Stream:
    """Stands in for a stream of the accelerator: notes what it was told to wait for."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def wait_stream(self, other: Stream) -> None:
        self.calls.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.calls.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        return "the batch"


class Tensor:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def record_stream(self, stream: Stream) -> None:
        self.calls.append(f"a tensor is in use on {stream.name}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []
    main = Stream("main", noted)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side", noted))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return noted


def batches(calls: list[str], count: int) -> Iterator[Any]:
    for _ in range(count):
        calls.append("a batch is made")
        yield (Tensor(calls),)


def test_the_first_batch_is_made_only_after_what_it_reads(calls: list[str]) -> None:
    list(one_ahead(batches(calls, 1), torch.device("cuda")))

    assert calls.index("side waits for main") < calls.index("a batch is made")


@pytest.mark.parametrize("taken", [1, 3])
def test_what_the_side_stream_reads_is_not_given_away_before_it_has_been_read(
    calls: list[str], taken: int
) -> None:
    ahead = one_ahead(batches(calls, 3), torch.device("cuda"))
    for _ in range(taken):
        next(ahead)

    ahead.close()  # type: ignore[attr-defined]

    assert calls[-1] == "main waits for side"
    assert calls.count("a tensor is in use on main") == taken
