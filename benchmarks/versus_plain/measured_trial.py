"""The trainable with stopwatches in it, and with parts taken out: what the benchmarks give to Ray.

A few functions of the engine are wrapped by name in the worker's process, which costs microseconds an epoch.
A worker leaves its totals in `<study>/spans/<process>.json` after each lease.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainables.trial import Trial, import_engine


@dataclass(kw_only=True)
class Span:
    """Totals of the spans with one name."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of the thread, so without waiting."""

    calls: int = 0
    rows: int = 0
    """Total of what the caller counts, such as images."""


class Spans:
    """Total seconds of a process by name, each without the spans that began inside it.

    Spans of several threads may overlap, so that totals can add up to more than the time that passed.
    """

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
        """The function with every call in a span, whose name and rows may depend on the arguments."""

        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            own = name if isinstance(name, str) else name(*arguments, **named)
            with self.span(own, rows=count(*arguments, **named)):
                return function(*arguments, **named)

        return wrapper

    def timed_steps(
        self, name: str, generator: Callable[..., Iterator[Any]], *, count: Callable[..., int]
    ) -> Callable[..., Iterator[Any]]:
        """The generator function with every step in a span; rows count once, at the first step."""

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
    """Sum the totals of several processes."""
    summed: dict[str, dict[str, float]] = {}
    for name, total in ((name, total) for part in parts for name, total in part.items()):
        old = summed.setdefault(name, dict.fromkeys(total, 0.0))
        summed[name] = {key: round(old[key] + value, 6) for key, value in total.items()}
    return summed


CALLS = (
    ("trainables.images.store", "ImageStore.take", "reading images"),
    ("trainables.activations.rows", "Activations.rows", "reading activations"),
    ("trainables.run", "TrialRun.__init__", "building a trial"),
    ("trainables.run", "borrow_backbone", "loading the backbone, imports included"),
    ("trainables.run", "train_epoch", "training suffix and head"),
    ("trainables.run", "evaluate", "validating suffix and head"),
    ("trainables.lease", "save_result", "writing results"),
    ("trainables.lease", "save_checkpoint", "writing results"),
)
"""(module, name in it that is wrapped, span)."""

PREFIX = "frozen prefix, "
"""Prefix of the names of spans in which frozen layers compute."""

SEVERAL_DEPTHS = PREFIX + "several depths at once"

spans = Spans()


class MeasuredTrial(Trial):
    """The engine's trainable with stopwatches; subclasses leave something out."""

    without: tuple[str, ...] = ()
    _prepared = False
    _first: dict[str, float] = {}  # noqa: RUF012  (one for the process, whichever trial it runs)

    def setup(self, config: dict[str, Any]) -> None:
        self._first.setdefault("setup_at", time.time())
        super().setup(config)

    def step(self) -> dict[str, Any]:
        self._first.setdefault("step_at", time.time())
        if not MeasuredTrial._prepared:
            with spans.span("imports"):
                import_engine()
            _wrap_calls()
            _leave_out(self.without)
            MeasuredTrial._prepared = True
        with spans.span("bookkeeping of epochs"):
            result = super().step()
        if result["over"]:
            self._write()
        return result

    def _write(self) -> None:
        settings = self.lease_config["settings"]
        content = self._first | {"left_at": time.time(), "spans": spans.as_dict()}
        content |= {"cache": _cache_stats(settings["cache_directory"], settings["cache_gigabytes"])}
        path = Path(settings["study_directory"]) / "spans" / f"{os.getpid()}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


class WithoutImageStore(MeasuredTrial):
    without = ("image store",)


class WithoutActivations(MeasuredTrial):
    without = ("activation cache",)


def _wrap_calls() -> None:
    for module, name, span in CALLS:
        _wrap(module, name, partial(spans.timed, span))
    _wrap(
        "trainables.images.split_view",
        "ViewSettings.images",
        lambda images: spans.timed("augmenting", images, count=lambda _, split, rows, **__: len(rows)),
    )
    _wrap(
        "trainables.model.classifier",
        "Classifier.prefix_features",
        lambda features: spans.timed(
            lambda classifier, _: f"{PREFIX}depth {classifier.depth}",
            features,
            count=lambda _, images: len(images),
        ),
    )
    _wrap(
        "trainables.model.frozen_prefixes",
        "FrozenPrefixes.outputs",
        lambda outputs: spans.timed_steps(SEVERAL_DEPTHS, outputs, count=lambda _, images: len(images)),
    )


def _wrap(module: str, name: str, wrap: Callable[[Any], Any]) -> None:
    owner, attribute = _find(module, name)
    setattr(owner, attribute, wrap(getattr(owner, attribute)))


def _find(module: str, name: str) -> tuple[Any, str]:
    """Resolve `A.b` of a module to (A, "b")."""
    owner: Any = importlib.import_module(module)
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute


def _leave_out(parts: tuple[str, ...]) -> None:
    if "image store" in parts:
        shared = importlib.import_module("trainables.activations.shared")
        original = shared.open_or_build

        def decode_at_use(*arguments: Any, **named: Any) -> Any:
            return original(*arguments, **{**named, "budget_gb": 0.0})

        shared.open_or_build = decode_at_use  # type: ignore[attr-defined]
    if "activation cache" in parts:
        run = importlib.import_module("trainables.run")
        run.open_cache = _no_cache  # type: ignore[attr-defined]


def _no_cache(directory: str, gigabytes: float) -> None:
    """Replace open_cache in runs that send images through the whole network every time."""


def _cache_stats(directory: str, gigabytes: float) -> dict[str, float]:
    shared = importlib.import_module("trainables.activations.shared")
    cache = shared.open_cache(directory, gigabytes)
    return asdict(cache.stats()) if cache else {}
