"""Describes a search space as a table: each hyperparameter, its values, and when it is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from search_spaces._contract import SearchSpace

Answers = dict[str, Any]
"""Branch of a space: (name, answer) of the questions that did not get their first choice."""


@dataclass(frozen=True)
class SpaceRow:
    """One hyperparameter of a space."""

    name: str
    values: str
    condition: str
    """`name = value` where it is searched under that only, `unless name = value`, or empty: always."""


class _RecordingTrial:
    """Stands in for an Optuna trial: takes the first choice unless told otherwise; notes every question."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.choices: dict[str, Sequence[Any]] = {}
        self.values: dict[str, str] = {}
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.choices[name] = choices
        self.values[name] = ", ".join(str(choice) for choice in choices)
        return self._answer(name, choices[0])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        self.values[name] = f"{low:g} … {high:g}" + (" (log)" if log else f" step {step:g}" if step else "")
        return self._answer(name, low)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        self.values[name] = f"{low} … {high}" + (" (log)" if log else f" step {step}" if step != 1 else "")
        return self._answer(name, low)

    def _answer(self, name: str, default: Any) -> Any:
        self.params[name] = self.answers.get(name, default)
        return self.params[name]


def describe(
    space: SearchSpace, *, backbones: Sequence[str], max_epochs: int
) -> tuple[list[SpaceRow], dict[str, Any]]:
    """Return the rows of a space, and the values that it keeps fixed in all its branches.

    Every categorical choice is followed, so hyperparameters that are searched under a condition only are
    found too.
    """
    rows: dict[str, SpaceRow] = {}
    present: dict[str, list[Answers]] = {}
    absent: dict[str, list[Answers]] = {}
    queue: list[Answers] = [{}]
    fixed: dict[str, Any] | None = None
    while queue:
        answers = queue.pop(0)
        trial = _RecordingTrial(answers)
        returned = space.suggest(trial, backbones=backbones, max_epochs=max_epochs)
        fixed = returned if fixed is None else dict(fixed.items() & returned.items())
        for name in [name for name in trial.values if name not in rows]:
            rows[name] = SpaceRow(name, trial.values[name], "")
            others = list(trial.choices.get(name, ()))[1:]
            queue += [{**answers, name: choice} for choice in others]
        for name in rows:
            (present if name in trial.values else absent).setdefault(name, []).append(answers)
    conditions = {name: _condition(present[name], absent.get(name, [])) for name in rows}
    return [replace(row, condition=conditions[name]) for name, row in rows.items()], fixed or {}


def _condition(present: Sequence[Answers], absent: Sequence[Answers]) -> str:
    """Say when a hyperparameter is searched, from the branches that ask for it and those that do not."""
    if not absent:
        return ""
    if {} in present:
        return f"unless {_join(absent)}"
    return _join(present)


def _join(branches: Sequence[Answers]) -> str:
    """Join branches to one phrase; those with the fewest answers imply the rest."""
    fewest = min(len(answers) for answers in branches)
    choices: dict[str, list[str]] = {}
    for *others, (name, choice) in [list(answers.items()) for answers in branches if len(answers) == fewest]:
        text = "".join(f"{other} = {value} and " for other, value in others) + name
        choices.setdefault(text, []).append(str(choice))
    return " or ".join(f"{name} = {' | '.join(values)}" for name, values in choices.items())


def make_table(space: SearchSpace, *, backbones: Sequence[str], max_epochs: int) -> Table:
    """Print the rows and the fixed values of a space as a table."""
    rows, fixed = describe(space, backbones=backbones, max_epochs=max_epochs)
    title = Text(f"search space {space.name}: {space.summary}", style="table.title")
    table = Table(title=title, title_justify="left")
    for heading in ("hyperparameter", "values", "searched if"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(Text(row.name), Text(row.values), Text(row.condition or "always"))
    for name, value in fixed.items():
        table.add_row(Text(name), Text(str(value)), "fixed")
    return table
