"""Which changes of its search space a study can take: wider ranges and more choices, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RANGE = re.compile(r"(?P<low>\S+) … (?P<high>\S+)(?P<kind>.*)")


def space_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What cannot be reconciled, "name (before -> now)" each, by the tables that study.json holds."""
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
    return found + _removed(old.get("config_defaults") or {}, new.get("config_defaults") or {})


def _removed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Hyperparameters that this version lacks: the study's trials, which name them all, could not go on."""
    return [f"{name} ({before[name]} -> no longer a hyperparameter)" for name in before if name not in now]


def _is_wider(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """The same, a range around the old one, or more choices; the condition must be the same."""
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
