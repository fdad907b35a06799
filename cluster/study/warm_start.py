"""Warm start: begins a study with good configurations of earlier ones.

Of studies that are named, those on similar data come first; a portfolio has an order of its own. They are a
share of the study's trials, are judged like any other trial, and do not change what the searcher draws, so
that an unsuitable warm start costs no more than its own trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna

from cluster.study.config import AUTO_START, StudyConfig
from cluster.study.records import Records
from cluster.study.space_probe import Space
from contract.environment import expand
from contract.metrics import Direction
from contract.portfolio import SUFFIX, Portfolio
from contract.sqlite_files import sqlite_url
from contract.study_layout import StudyPaths, is_study

SHARE = 1 / 8
"""Largest share of a study's trials that may come from earlier studies by name."""
PORTFOLIO_SHARE = 1 / 2
"""Largest share of a study's trials that may come from portfolios: of 4 and 8 trials a half is better than a
quarter, of 16 it is no better (`python -m benchmarks portfolio`)."""
MOST_OF_PORTFOLIO = 4
"""Most trials that may come from portfolios: so many are a quarter of 16."""


Fit = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""Gives those of the parameters that a space has; None if a value lies outside it."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that did well in an earlier study."""

    name: str
    """Trial and study it comes from, as tables show it."""

    params: Mapping[str, Any]
    merit: float
    """Similarity of the data, divided by the trial's rank in its study."""


def most_starts(num_trials: int) -> int:
    """Largest number of configurations that a study of so many trials takes over from studies by name."""
    return max(1, int(num_trials * SHARE))


def most_of_portfolio(num_trials: int) -> int:
    """Largest number of configurations that a study of so many trials takes over from portfolios."""
    return max(1, min(MOST_OF_PORTFOLIO, int(num_trials * PORTFOLIO_SHARE)))


def find_warm_starts(
    studies: Sequence[str],
    *,
    runs_dir: Path,
    data: Mapping[str, Any],
    space: Space,
    num_trials: int,
    published: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """`name` and `params` of the configurations to begin with, the most promising first.

    Those that a published recipe already holds are left out.

    Raises:
        ValueError: a name in `studies` is no study.
    """
    most = most_starts(num_trials)
    candidates = [found for study in studies for found in _candidates(study, runs_dir, data, most)]
    return rank_candidates(candidates, fit=partial(fit_params, space), published=published)[:most]


def rank_candidates(
    candidates: Iterable[Candidate],
    *,
    fit: Fit,
    published: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """`name` and `params` of the candidates that fit the space, the most promising first, each once."""
    chosen: list[dict[str, Any]] = []
    known = list(published)
    for candidate in sorted(candidates, key=lambda one: -one.merit):
        params = fit(candidate.params)
        if params and not any(params.items() <= config.items() for config in known):
            chosen.append({"name": candidate.name, "params": params})
            known.append(params)
    return chosen


def named_studies(config: StudyConfig) -> list[str]:
    """Names and directories of studies among the values of --warm-start."""
    return [one for one in config.warm_start if one != AUTO_START and not _is_portfolio(one, config)]


def portfolio_files(config: StudyConfig) -> list[Path]:
    """Portfolios among the values of --warm-start."""
    return [expand(one) for one in config.warm_start if _is_portfolio(one, config)]


def check_warm_start(config: StudyConfig, space: Space) -> None:
    """Check the values of --warm-start, before images are read.

    Raises:
        ValueError: one is no study, or no portfolio that can be read, or one without a fitting entry.
    """
    for study in named_studies(config):
        _find_study(study, config.runs_dir)
    for file in portfolio_files(config):
        if not fitting_entries(file, partial(fit_params, space)):
            spaces = ", ".join(Portfolio.load(file).spaces)
            raise ValueError(
                f"--warm-start {file}: --space {config.space} with its backbones can take none of these "
                f"configurations, which come from --space {spaces}: leave it out"
            )


def fitting_entries(file: Path, fit: Fit) -> list[Candidate]:
    """Configurations of a portfolio that the space can take, in their order."""
    return [
        Candidate(name=entry.name, params=entry.config, merit=0.0)
        for entry in Portfolio.load(file).entries
        if fit(entry.config)
    ]


def _is_portfolio(value: str, config: StudyConfig) -> bool:
    return value.endswith(SUFFIX) and not any(is_study(one) for one in (Path(value), config.runs_dir / value))


def likeness(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Similarity of two data sets: 1 for the same images, however split; else below 0.9, by their sizes."""
    if one.get("contents") and one.get("contents") == other.get("contents"):
        return 1.0
    pairs = (
        (len(one.get("classes", ())), len(other.get("classes", ()))),
        (one.get("num_train", 0), other.get("num_train", 0)),
    )
    distance = sum(abs(math.log((1 + first) / (1 + second))) for first, second in pairs)
    return 0.9 * math.exp(-distance / 2)


def fit_params(space: Space, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of the parameters that this space has; None if a value lies outside it."""
    trial = _Fixed(params)
    try:
        space(cast(optuna.Trial, trial))
    except ValueError:
        return None
    return trial.params


class _Fixed:
    """A trial that suggests given values, and raises ValueError for one outside or one that was not given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.number = 0
        self.params: dict[str, Any] = {}
        self._given = given

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, self._given.get(name) in choices)

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> Any:
        value = self._given.get(name)
        return self._take(name, isinstance(value, int | float) and low <= value <= high)

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> Any:
        value = self._given.get(name)
        return self._take(name, isinstance(value, int) and low <= value <= high)

    def _take(self, name: str, fits: bool) -> Any:
        if name not in self._given or not fits:
            raise ValueError(f"{name} does not fit")
        self.params[name] = self._given[name]
        return self.params[name]


def _candidates(study: str, runs_dir: Path, data: Mapping[str, Any], most: int) -> Iterable[Candidate]:
    paths = StudyPaths(_find_study(study, runs_dir))
    info = json.loads(paths.facts.read_text(encoding="utf-8"))
    url = sqlite_url(paths.database.absolute()) if paths.database.exists() else info["storage"]
    records = Records(
        url, study=info["study"], directions=info["directions"], metric=info["metric"], new=False
    )
    trials = [record for record in records.load() if record.values and record.params]
    records.close()
    sign = Direction(info["direction"]).sign
    ranked = sorted(trials, key=lambda record: (-sign * record.values[0], record.number))
    alike = likeness(info.get("data", {}), data)
    for rank, record in enumerate(ranked[: 2 * most + 4], start=1):
        name = f"trial {record.number} of {info['study']}"
        yield Candidate(name=name, params=record.params, merit=alike / rank)


def _find_study(study: str, runs_dir: Path) -> Path:
    directory = next((d for d in (Path(study), runs_dir / study) if is_study(d)), None)
    if directory is None:
        raise ValueError(f"--warm-start {study}: no such study in {runs_dir}, and no study directory")
    return directory
