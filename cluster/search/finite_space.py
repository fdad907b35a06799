"""Walks through the configurations of a search space, so that one with finitely many can be used up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import optuna

Space = Callable[[optuna.Trial], Mapping[str, Any]]


class Untried:
    """The configurations of a space that are not tried yet, found on one walk through it."""

    def __init__(
        self, space: Space, *, is_tried: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    ) -> None:
        """`is_tried` is asked for suggested parameters, and what the space returned for them."""
        self.is_endless = False
        """The walk came to a continuous hyperparameter: the space has no last configuration."""
        self._is_tried = is_tried
        self._walk = _walk(space)
        self._first: tuple[dict[str, Any], Mapping[str, Any]] | None = None

    def first(self) -> dict[str, Any] | None:
        """The parameters of the next one on the walk; None behind the last, and in a space without a last."""
        while self._first is None or self._is_tried(*self._first):
            try:
                self._first = next(self._walk, None)
            except _EndlessError:
                self.is_endless = True
            if self._first is None or self.is_endless:
                return None
        return dict(self._first[0])


class _EndlessError(Exception):
    """A hyperparameter is continuous."""


def _walk(space: Space) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """The suggested parameters and what the space returned for them, of one configuration after the other.

    Combinations at which the space raises are left out: they cannot be tried.

    Raises:
        _EndlessError: the walk has come to a hyperparameter that is continuous.
    """
    path: list[int] = []
    while True:
        trial = _ScriptedTrial(path)
        try:
            yield trial.params, space(cast(optuna.Trial, trial))
        except _EndlessError:
            raise
        except Exception:  # outside the user's limits; an error is recorded when the search proposes it
            pass
        path = _next_path(trial.taken, trial.numbers)
        if not path:
            return


class _ScriptedTrial:
    """A trial that takes the choices of a path, and the first choice of whatever comes behind it."""

    number = 0

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self.taken: list[int] = []
        self.numbers: list[int] = []
        """How many choices there were at each step of the path."""
        self._path = path

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, len(choices), lambda at: choices[at])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, **_: Any) -> Any:
        return self._take(name, (high - low) // step + 1, lambda at: low + at * step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, **_: Any
    ) -> Any:
        if low == high:
            return self._take(name, 1, lambda _: low)
        if step is None:
            raise _EndlessError(name)
        return self._take(name, round((high - low) / step) + 1, lambda at: low + at * step)

    def _take(self, name: str, number: int, value: Callable[[int], Any]) -> Any:
        if name not in self.params:
            depth = len(self.taken)
            self.taken.append(self._path[depth] if depth < len(self._path) else 0)
            self.numbers.append(number)
            self.params[name] = value(self.taken[-1])
        return self.params[name]


def _next_path(taken: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """The choices that come next, counted up like the digits of a number; empty after the last."""
    path = list(taken)
    while path and path[-1] + 1 >= numbers[len(path) - 1]:
        path.pop()
    return [*path[:-1], path[-1] + 1] if path else []
