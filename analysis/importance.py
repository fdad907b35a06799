"""Importance of hyperparameters: the share of the spread that each explains, tested against chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.predictions import Array

NUM_SHUFFLES = 500
MAX_TRIALS = 2000
MIN_TRIALS = 10


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importance of one hyperparameter, all others ignored."""

    name: str
    explained: float
    """Share of the values' variance between its groups (eta squared, corrected for their number)."""

    p_value: float
    """Chance that the strongest of all hyperparameters looks at least this strong by luck alone."""


def measure_importance(
    configs: Sequence[Mapping[str, Any]], values: Sequence[float], names: Sequence[str], *, seed: int = 0
) -> list[Importance]:
    """Rank the hyperparameters, strongest first; empty below MIN_TRIALS, which would be too few to tell.

    Values are replaced by their ranks, so that one diverged trial does not decide. Numbers are cut into up to
    four groups of equal size.
    """
    if len(configs) < MIN_TRIALS:
        return []
    generator = np.random.default_rng(seed)
    kept = generator.permutation(len(configs))[:MAX_TRIALS]
    ranks = np.argsort(np.argsort(np.asarray(values)[kept])).astype(float)
    groups = {name: make_groups([configs[i].get(name) for i in kept]) for name in names}
    groups = {name: group for name, group in groups.items() if group.max() > 0}
    if not groups:
        return []
    observed = {name: explained_share(ranks, group) for name, group in groups.items()}
    strongest = np.array(
        [
            max(explained_share(shuffled, group) for group in groups.values())
            for shuffled in (generator.permutation(ranks) for _ in range(NUM_SHUFFLES))
        ]
    )
    found = [
        Importance(
            name=name,
            explained=max(0.0, share),
            p_value=float((1 + (strongest >= share).sum()) / (1 + NUM_SHUFFLES)),
        )
        for name, share in observed.items()
    ]
    return sorted(found, key=lambda one: -one.explained)


def make_groups(values: Sequence[Any]) -> Array:
    """Number the groups from 0: one a value, but four of equal size for more than five numbers."""
    distinct = sorted(set(values), key=lambda value: (str(type(value)), value if value is not None else 0))
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if is_number and len(distinct) > 5:
        numbers = np.asarray(values, dtype=float)
        return np.searchsorted(np.quantile(numbers, (0.25, 0.5, 0.75)), numbers)
    position = {value: index for index, value in enumerate(distinct)}
    return np.array([position[value] for value in values])


def explained_share(values: Array, groups: Array) -> float:
    """Epsilon squared: eta squared less what the number of groups would explain by chance."""
    counts = np.bincount(groups)
    present = counts > 0
    num_groups, num_values = int(present.sum()), len(values)
    total = ((values - values.mean()) ** 2).sum()
    if num_groups < 2 or num_values <= num_groups or total == 0:
        return 0.0
    means = np.bincount(groups, weights=values)[present] / counts[present]
    between = (counts[present] * (means - values.mean()) ** 2).sum()
    within = (total - between) / (num_values - num_groups)
    return float((between - (num_groups - 1) * within) / total)
