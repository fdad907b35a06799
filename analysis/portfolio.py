"""Learns from past studies which configurations a new one should begin with.

Without features of the data sets: greedily, each configuration is the one that lowers the mean regret over
the past data sets most beside those before it (Xu et al. 2010, Hydra; Feurer et al. 2022, Auto-sklearn 2.0:
the regret left is submodular, so that the greedy choice is within 1 - 1/e of the best). Studies have tried
different configurations. What one would have reached on another data set is drawn from a Gaussian process
that knows the trials there (after Wistuba et al. 2015), and regrets are means over draws: the luck of a best
value is taken out, and what is not known counts as not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.reading import HYPERPARAMETERS, StudyInfo, load_trial_rows
from contract.messages import State
from contract.metrics import Direction, direction_of
from contract.portfolio import Portfolio, PortfolioEntry, shared_values
from contract.trial_config import TrialConfig, config_as_dict

MOST_ENTRIES = 16
"""Most configurations of a portfolio; a study begins with some of the first."""
NOISE = 0.15
"""Assumed variance of a score's noise, as a share of the scores' variance: that of the searcher `guided`."""
LENGTH = 0.5
"""Length scale of the model, as a share of a hyperparameter's range: that of the searcher `guided`."""
UNLIKE = 0.35 / LENGTH
"""Distance of two named values in each of their two coordinates, in length scales."""
DRAWS = 128
"""Draws from the model over which regrets are averaged."""
JITTER = 1e-6
"""Share of the largest variance added to all: else rounding makes the matrix indefinite."""
LEAST = 1e-6
"""Smallest spread of scores that is divided by."""
MOST_TRIALS = 1000
"""Most trials that are learned from, recipes aside, shared evenly among data sets: the best half of each, and
others evenly spread."""
WORST = 3.0
"""Scores further below the median than so many times its distance from the best are raised to that."""

BUDGET = "max_epochs"
"""The hyperparameter that is each study's own and part of no portfolio."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PastTrial:
    """A trial of an earlier study that ran to its end."""

    name: str
    """Trial and study, as tables show them."""

    data: str
    """Identity of the images; studies on the same ones are one data set, however they are split."""

    values: Mapping[str, Any]
    """Hyperparameters by name."""

    score: float
    """The metric, negated if it is minimized: higher is better."""

    is_recipe: bool = False
    """It ran a published recipe, which a new study tries anyway."""


def read_past_trials(study: StudyInfo, metric: str) -> list[PastTrial]:
    """Read the trials of a study that ran to their end, with whole configurations.

    Of a study that goes on those that have ended count. Names that its version had not get their defaults.

    Raises:
        ValueError: its database is not there or holds nothing yet.
    """
    sign = Direction(direction_of(metric)).sign
    usual = config_as_dict(TrialConfig(backbone=""))
    usual.pop(BUDGET)
    given = {start["name"] for start in study.facts.get("warm_start") or ()}
    data = study.facts.get("data") or {}
    names = set(HYPERPARAMETERS) - {BUDGET}
    return [
        PastTrial(
            name=f"trial {row['trial']} of {study.name}",
            data=str(data.get("contents") or data.get("fingerprint") or study.key),
            values=usual | {name: row[name] for name in names if name in row},
            score=sign * row[metric],
            is_recipe=bool(row["recipe"]) and row["recipe"] not in given,
        )
        for row in load_trial_rows(study)
        if row["state"] == State.COMPLETE and row.get(metric) is not None and row.get("backbone")
    ]


def make_portfolio(trials: Sequence[PastTrial], *, metric: str, spaces: Iterable[str]) -> Portfolio:
    """Learn a portfolio that can be shared, of trials of studies of these search spaces."""
    return Portfolio(
        spaces=tuple(dict.fromkeys(spaces)),
        metric=metric,
        num_sets=len({trial.data for trial in trials}),
        num_trials=len(trials),
        entries=tuple(
            PortfolioEntry(name=trial.name, values=shared_values(trial.values))
            for trial in choose_trials(trials, size=MOST_ENTRIES)
        ),
    )


def choose_trials(trials: Iterable[PastTrial], *, size: int, here: str | None = None) -> list[PastTrial]:
    """Choose at most `size` trials whose configurations a new study should begin with, the first one first.

    They add to the recipes, which every study begins with.

    Args:
        here: identity of the new study's images; of trials that saw the very same, the best comes first.
    """
    known = _most_telling(trials)
    if not known or size < 1:
        return []
    keys = [_key(trial.values) for trial in known]
    configs = {key: at for at, key in reversed(list(enumerate(keys)))}  # the first of equal ones
    number = {key: place for place, key in enumerate(configs)}
    places = place_configs([known[at].values for at in configs.values()])
    names = list(dict.fromkeys(trial.data for trial in known))
    regrets, left = [], []
    for name in names:
        own = [(number[key], one) for key, one in zip(keys, known, strict=True) if one.data == name]
        drawn = _draw_regrets(own, places)
        regrets.append(drawn)
        recipes = [at for at, one in own if one.is_recipe]
        left.append(drawn[recipes].min(axis=0) if recipes else np.median(drawn, axis=0))
    first = names.index(here) if here in names else None
    chosen = _choose(np.array(regrets), np.array(left), size=size, first=first)
    kept = list(configs.values())
    return [known[kept[at]] for at in chosen]


def _choose(regrets: Matrix, left: Matrix, *, size: int, first: int | None) -> list[int]:
    """Choose configurations greedily by the mean regret that they leave.

    Args:
        regrets: of each configuration on each data set in each draw, [sets, configurations, draws].
        left: regret of what is run anyway, [sets, draws].
        first: a data set whose best configuration comes first.
    """
    chosen: list[int] = []
    if first is not None:
        chosen.append(int(regrets[first].mean(axis=1).argmin()))
        left = np.minimum(left, regrets[:, chosen[0]])
    while len(chosen) < size:
        gains = (left[:, None] - np.minimum(left[:, None], regrets)).mean(axis=(0, 2))
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        chosen.append(best)
        left = np.minimum(left, regrets[:, best])
    return chosen


def _most_telling(trials: Iterable[PastTrial]) -> list[PastTrial]:
    """Leave out trials of data sets that have more than the model can take; recipes stay."""
    by_data: dict[str, list[PastTrial]] = {}
    for trial in sorted(trials, key=lambda one: -one.score):
        by_data.setdefault(trial.data, []).append(trial)
    kept = []
    half = max(5, MOST_TRIALS // (2 * max(1, len(by_data))))
    for ranked in by_data.values():
        best, rest = ranked[:half], ranked[half:]
        step = max(1, math.ceil(len(rest) / half))
        kept += [*best, *(one for at, one in enumerate(rest) if at % step == 0 or one.is_recipe)]
    return kept


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True, default=str)


def _draw_regrets(own: Sequence[tuple[int, PastTrial]], places: Matrix) -> Matrix:
    """Regrets of all configurations on one data set, [configurations, draws], in deviations of its scores.

    Data sets count alike, however far apart their scores lie.

    Args:
        own: the data set's trials, with the rows of their configurations in `places`.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    scores = np.array([trial.score for _, trial in own])
    best, middle = float(scores.max()), float(np.median(scores))
    # A diverged trial must not flatten the differences between good ones.
    scores = np.maximum(scores, middle - WORST * max(best - middle, LEAST))
    model = GaussianProcessRegressor(
        Matern(length_scale=1.0, nu=2.5), alpha=NOISE, optimizer=None, normalize_y=True
    )
    model.fit(places[[at for at, _ in own]], scores)
    mean, covariance = model.predict(places, return_cov=True)
    covariance[np.diag_indices_from(covariance)] += JITTER * covariance.diagonal().max()
    dice = np.random.default_rng(0).standard_normal((len(places), DRAWS))
    drawn = mean[:, None] + np.linalg.cholesky(covariance) @ dice
    regrets: Matrix = (drawn.max(axis=0) - drawn) / max(float(scores.std()), LEAST)
    return regrets


def place_configs(configs: Sequence[Mapping[str, Any]]) -> Matrix:
    """Configurations as points [configs, coordinates], in length scales.

    A number's place is its rank among the values that occur, which spreads draws evenly whatever their scale;
    named values are equally far apart. What all have in common has no coordinate.
    """
    names = sorted({name for config in configs for name in config})
    columns = [column for name in names for column in _columns([config.get(name) for config in configs])]
    columns = columns or [[0.0] * len(configs)]
    return np.array(columns, dtype=np.float64).T


def _columns(values: Sequence[Any]) -> list[list[float]]:
    found = sorted({json.dumps(value, default=str) for value in values if value is not None})
    if len(found) < 2:
        return []
    numbers = [math.inf if value == "all" else value for value in values]
    if all(value is None or _is_number(value) for value in numbers):
        ranks = {value: at for at, value in enumerate(sorted({one for one in numbers if one is not None}))}
        return [[0.5 / LENGTH if v is None else ranks[v] / (len(ranks) - 1) / LENGTH for v in numbers]]
    return [[UNLIKE * (json.dumps(value, default=str) == one) for value in values] for one in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
