"""Every searcher proposes from the study it is asked about, and from nothing else."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cluster import searchers


def propose(name: str, *, seed: int) -> dict[str, Any]:
    study = optuna.create_study(direction="maximize")
    for value in range(12):
        told = study.ask()
        told.suggest_float("x", 0, 1)
        if told.suggest_categorical("kind", ("a", "b")) == "a":
            told.suggest_int("depth", 0, 4)
        study.tell(told, value / 12)
    study.sampler = searchers.load_searcher(name)(seed=seed, num_startup=5)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    if trial.suggest_categorical("kind", ("a", "b")) == "a":
        trial.suggest_int("depth", 0, 4)
    return trial.params


@pytest.mark.parametrize("name", searchers.names())
def test_a_searcher_follows_its_seed(name: str) -> None:
    sampler = searchers.load_searcher(name)(seed=3, num_startup=5)
    again = searchers.load_searcher(name)(seed=3, num_startup=5)

    proposals = []
    for one in (sampler, again):
        study = optuna.create_study(direction="maximize", sampler=one)
        trial = study.ask()
        proposals.append((trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ("a", "b"))))

    assert proposals[0] == proposals[1]


@pytest.mark.parametrize("name", searchers.names())
def test_a_searcher_copes_with_conditional_spaces(name: str) -> None:
    params = propose(name, seed=1)

    assert 0 <= params["x"] <= 1
    assert ("depth" in params) == (params["kind"] == "a")
