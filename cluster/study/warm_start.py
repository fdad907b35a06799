"""Warm start: the best configurations of earlier studies, those on similar data first, as first trials.

The guard: they are at most an eighth of the study's trials, each is measured here like any other trial, and
the searcher draws its own proposals as if they were not there. A warm start costs its first trials at most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna

from cluster.study.records import Records
from cluster.study.space_probe import Space

SHARE = 1 / 8
"""Most of a study's trials that may come from earlier ones."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that did well before."""

    name: str
    params: Mapping[str, Any]
    merit: float
    """Likeness of the data over the rank in its study."""


def find_warm_starts(
    studies: Sequence[str],
    *,
    runs_dir: Path,
    data: Mapping[str, Any],
    space: Space,
    num_trials: int,
    published: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """`name` and `params` of the first trials that earlier studies give, the most promising first.

    What a published recipe holds already is left out.

    Raises:
        ValueError: one of them is no study.
    """
    most = max(1, int(num_trials * SHARE))
    candidates = [found for study in studies for found in _candidates(study, runs_dir, data, most)]
    chosen: list[dict[str, Any]] = []
    for candidate in sorted(candidates, key=lambda one: -one.merit):
        params = fit_params(space, candidate.params)
        known = [*published, *(one["params"] for one in chosen)]
        if params and not any(params.items() <= config.items() for config in known):
            chosen.append({"name": candidate.name, "params": params})
    return chosen[:most]


def likeness(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How alike two data sets are: 1 for the same images, however split; else below 0.9, by their sizes."""
    if one.get("contents") and one.get("contents") == other.get("contents"):
        return 1.0
    pairs = (
        (len(one.get("classes", ())), len(other.get("classes", ()))),
        (one.get("num_train", 0), other.get("num_train", 0)),
    )
    distance = sum(abs(math.log((1 + first) / (1 + second))) for first, second in pairs)
    return 0.9 * math.exp(-distance / 2)


def fit_params(space: Space, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What this space has of the parameters; None where it cannot hold one of them."""
    trial = _Fixed(params)
    try:
        space(cast(optuna.Trial, trial))
    except ValueError:
        return None
    return trial.params


class _Fixed:
    """A trial that answers with given values, refuses those outside, and keeps what was not asked."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.number = 0
        self.params: dict[str, Any] = {}
        self._given = given

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, self._given.get(name) in choices)

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> Any:
        return self._take(name, low <= self._given.get(name, math.nan) <= high)

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> Any:
        return self._take(name, low <= self._given.get(name, math.nan) <= high)

    def _take(self, name: str, fits: bool) -> Any:
        if name not in self._given or not fits:
            raise ValueError(f"{name} does not fit")
        self.params[name] = self._given[name]
        return self.params[name]


def _candidates(study: str, runs_dir: Path, data: Mapping[str, Any], most: int) -> Iterable[Candidate]:
    directory = next((d for d in (Path(study), runs_dir / study) if (d / "study.json").exists()), None)
    if directory is None:
        raise ValueError(f"--warm-start {study}: no such study in {runs_dir}, and no study directory")
    info = json.loads((directory / "study.json").read_text(encoding="utf-8"))
    local = directory / "study.db"
    url = f"sqlite:///{local.absolute()}" if local.exists() else info["storage"]
    records = Records(
        url, study=info["study"], directions=info["directions"], metric=info["metric"], new=False
    )
    trials = [record for record in records.load() if record.values and record.params]
    records.close()
    sign = -1 if info["direction"] == "maximize" else 1
    ranked = sorted(trials, key=lambda record: (sign * record.values[0], record.number))
    alike = likeness(info.get("data", {}), data)
    for rank, record in enumerate(ranked[: 2 * most + 4], start=1):
        name = f"trial {record.number} of {info['study']}"
        yield Candidate(name=name, params=record.params, merit=alike / rank)
