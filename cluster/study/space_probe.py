"""Probes of a search space: its distributions and choices, and whether earlier trials still fit them."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from cluster.study.records import TrialRecord

NUM_PROBES = 40
"""Number of random proposals, about 0.3 ms each: enough to meet all but rare branches of a space."""

Space = Callable[[optuna.Trial], Mapping[str, Any]]


def probe(space: Space, *, num: int = NUM_PROBES) -> list[FrozenTrial]:
    """Random trials of the space, without those for which it raises."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(num):
        trial = study.ask()
        try:
            space(trial)
        except Exception:
            study.tell(trial, state=TrialState.FAIL)
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]


def sample_configs(space: Space, *, num: int = NUM_PROBES) -> list[Mapping[str, Any]]:
    """Random configurations of the space, without proposals for which it raises."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    configs = []
    for _ in range(num):
        try:
            configs.append(space(study.ask()))
        except Exception:
            continue  # the search records the error once it proposes such a trial
    return configs


def find_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Distributions by parameter, as far as random proposals meet them."""
    found: dict[str, BaseDistribution] = {}
    for trial in probe(space):
        for name, distribution in trial.distributions.items():
            found.setdefault(name, distribution)
    return found


def find_choices(space: Space, name: str) -> list[Any]:
    """The values of a categorical parameter; empty for other parameters."""
    found = find_distributions(space).get(name)
    return list(found.choices) if isinstance(found, CategoricalDistribution) else []


def fit_to_space(history: list[TrialRecord], space: Space) -> list[TrialRecord]:
    """The trials with the space's present distributions, because a study's space may have been widened.

    Raises:
        ValueError: a trial lies outside the space, so that it is not wider.
    """
    if not history:
        return history
    now = find_distributions(space)
    return [_fit(record, now) for record in history]


def _fit(record: TrialRecord, now: Mapping[str, BaseDistribution]) -> TrialRecord:
    distributions = dict(record.distributions)
    for name, before in record.distributions.items():
        if name not in now or now[name] == before:
            continue
        if not holds(now[name], record.params[name]):
            raise ValueError(
                f"trial {record.number} has {name} {record.params[name]}, which the space no longer holds: "
                "set it back to continue the study, or start another one with --study NAME"
            )
        distributions[name] = now[name]
    return dataclasses.replace(record, distributions=distributions)


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution could have proposed the value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(value, int | float):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(distribution._contains(distribution.to_internal_repr(value)))


_RANGE = re.compile(r"(?P<low>\S+) … (?P<high>\S+)(?P<kind>.*)")


def space_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changes other than a widening, "name (before -> now)" each, by the tables in study.json."""
    before = {row["name"]: row for row in old.get("space_table", ())}
    now = {row["name"]: row for row in new.get("space_table", ())}
    found = []
    for name in before | now:
        if name not in before or name not in now:
            found.append(f"{name} ({_values(before.get(name))} -> {_values(now.get(name))})")
        elif not _is_wider(before[name], now[name]):
            found.append(f"{name} ({_line(before[name])} -> {_line(now[name])})")
    fixed_before, fixed_now = old.get("space_fixed") or {}, new.get("space_fixed") or {}
    for name in fixed_before | fixed_now:
        if fixed_before.get(name) != fixed_now.get(name) and name not in before.keys() | now.keys():
            found.append(f"{name} ({fixed_before.get(name)} -> {fixed_now.get(name)})")
    return found


def _is_wider(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the row is the same, its range wider or its choices more; its condition must be the same."""
    if before.get("condition", "") != now.get("condition", ""):
        return False
    if before["values"] == now["values"]:
        return True
    old_range, new_range = _RANGE.fullmatch(before["values"]), _RANGE.fullmatch(now["values"])
    if old_range and new_range:
        same_kind = old_range["kind"] == new_range["kind"]
        lower = float(new_range["low"]) <= float(old_range["low"])
        return same_kind and lower and float(old_range["high"]) <= float(new_range["high"])
    if old_range or new_range:
        return False
    return set(before["values"].split(", ")) <= set(now["values"].split(", "))


def _values(row: Mapping[str, Any] | None) -> str:
    return "not searched" if row is None else str(row["values"])


def _line(row: Mapping[str, Any]) -> str:
    condition = row.get("condition")
    return f"{row['values']}, if {condition}" if condition else str(row["values"])
