"""The trainable with a stopwatch in it, and with parts taken out: what the benchmarks give to Ray.

A few calls of the engine are wrapped by name in the worker's process; the engine knows nothing of it. It
costs microseconds an epoch. A worker leaves its totals in `<study>/spans/<process>.json` after each lease.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.versus_plain.spans import Spans
from trainables.trial import Trial, import_engine

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
"""Module, what is wrapped in it, and the span."""
PREFIX = "frozen prefix, "
"""Begins the names of the spans in which a frozen part computes."""
LADDER = PREFIX + "several depths at once"

spans = Spans()


class MeasuredTrial(Trial):
    """The engine's trainable, measured; subclasses leave something out."""

    without: tuple[str, ...] = ()
    _prepared = False
    _first: dict[str, float] = {}  # noqa: RUF012  (of the process, whichever trial it runs)

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
        if result["done"]:
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
        lambda images: spans.timed("augmenting", images, count=lambda _, part, rows, **__: len(rows)),
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
        "Ladder.climb",
        lambda climb: spans.timed_steps(LADDER, climb, count=lambda _, images: len(images)),
    )


def _wrap(module: str, name: str, wrap: Callable[[Any], Any]) -> None:
    owner, attribute = _find(module, name)
    setattr(owner, attribute, wrap(getattr(owner, attribute)))


def _find(module: str, name: str) -> tuple[Any, str]:
    """`A.b` of a module -> (A, "b")."""
    owner: Any = importlib.import_module(module)
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute


def _leave_out(parts: tuple[str, ...]) -> None:
    if "image store" in parts:
        study_data = importlib.import_module("trainables.activations.study_data")
        original = study_data.open_or_build

        def decode_at_use(*arguments: Any, **named: Any) -> Any:
            return original(*arguments, **{**named, "budget_gb": 0.0})

        study_data.open_or_build = decode_at_use  # type: ignore[attr-defined]
    if "activation cache" in parts:
        run = importlib.import_module("trainables.run")
        run.open_cache = _no_cache  # type: ignore[attr-defined]


def _no_cache(directory: str, gigabytes: float) -> None:
    """Images go through the whole network every time."""


def _cache_stats(directory: str, gigabytes: float) -> dict[str, float]:
    study_data = importlib.import_module("trainables.activations.study_data")
    cache = study_data.open_cache(directory, gigabytes)
    return asdict(cache.stats()) if cache else {}
