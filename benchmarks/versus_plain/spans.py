"""Where a process spends its time: named spans, each counted without those that were begun inside it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(kw_only=True)
class Span:
    """Totals of one name."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the thread, so without waiting."""
    calls: int = 0
    rows: int = 0
    """Whatever the span was told to count, images say."""


class Spans:
    """Totals by name; spans of several threads may overlap, so they can add up to more than the time."""

    def __init__(self) -> None:
        self.totals: dict[str, Span] = {}
        self._mutex = threading.Lock()
        self._stacks = threading.local()

    @contextmanager
    def span(self, name: str, *, rows: int = 0) -> Iterator[None]:
        stack = self._stacks.__dict__.setdefault("open", [])
        stack.append([0.0, 0.0])
        began, began_cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - began, time.thread_time() - began_cpu
            inner, inner_cpu = stack.pop()
            if stack:
                stack[-1][0] += seconds
                stack[-1][1] += cpu
            with self._mutex:
                total = self.totals.setdefault(name, Span())
                total.seconds += seconds - inner
                total.cpu_seconds += cpu - inner_cpu
                total.calls += 1
                total.rows += rows

    def timed(
        self,
        name: str | Callable[..., str],
        function: Callable[..., Any],
        *,
        count: Callable[..., int] = lambda *_, **__: 0,
    ) -> Callable[..., Any]:
        """The function, its calls in a span; name and rows may depend on its arguments."""

        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            own = name if isinstance(name, str) else name(*arguments, **named)
            with self.span(own, rows=count(*arguments, **named)):
                return function(*arguments, **named)

        return wrapper

    def timed_steps(
        self, name: str, generator: Callable[..., Iterator[Any]], *, count: Callable[..., int]
    ) -> Callable[..., Iterator[Any]]:
        """The generator function, each step of it in a span; rows are counted at the first."""

        @functools.wraps(generator)
        def wrapper(*arguments: Any, **named: Any) -> Iterator[Any]:
            steps, rows = generator(*arguments, **named), count(*arguments, **named)
            while True:
                with self.span(name, rows=rows):
                    step = next(steps, self)
                if step is self:
                    return
                rows = 0
                yield step

        return wrapper

    def as_dict(self) -> dict[str, dict[str, float]]:
        with self._mutex:
            return {name: asdict(total) for name, total in self.totals.items()}


def add_up(parts: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The totals of several processes."""
    summed: dict[str, dict[str, float]] = {}
    for name, total in ((name, total) for part in parts for name, total in part.items()):
        old = summed.setdefault(name, dict.fromkeys(total, 0.0))
        summed[name] = {key: round(old[key] + value, 6) for key, value in total.items()}
    return summed
